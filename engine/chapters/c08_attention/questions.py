"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from engine.evidence.question import Ask, largest

ASKED: dict[str, Ask] = {
    "row": largest("Which token does this query look at most?", "weight", "“{key}” at position {position}"),
    "values": largest(
        "Which token contributes most to the head's output?",
        "share of the sum",
        "“{key}” at position {position}",
    ),
    "promoted": largest(
        "Which of these tokens does the head vote for most?", "effect on the logit", "“{token}”", by_name=True
    ),
}
