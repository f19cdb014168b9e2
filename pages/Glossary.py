"""Glossary and search — the terms of the book, and where they are at work."""

from pages._shared import glossary

glossary.show()
