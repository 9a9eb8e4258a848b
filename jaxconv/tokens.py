"""The tokens of a caption that are not words: a caption is its words' tokens, `END`, then `PAD`."""

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
