"""Lines of *Code* scripts that several cards begin with."""

ATTENTION_CODE = """\
with torch.no_grad():
    attentions = model(ids, output_attentions=True).attentions
weights = torch.stack(attentions)[:, 0].float()  # layer, head, query, key
"""
"""Lines that follow the preamble of a script that begins with all attention weights."""
