"""Measurements that hold the project's promises. They print numbers and assert nothing; pytest does not run them."""
