"""What the language model and the families are made of: each file one part, none of which knows a family.

mixer.py state.py                     what a layer of any family is to the model, and what it remembers
convolution.py linear.py mlp.py       parts of blocks
documents.py padding.py               several texts in a row; rows of several lengths
loss.py loss_node.py tied.py          the loss without the logits of the whole sequence; the table that is head and embedding
submodule.py adapters.py watch.py     modules that somebody wrapped or replaced, and when a fused path may read their weights
fused_step.py                         what a fused decoding step needs to know of a mixer
"""
