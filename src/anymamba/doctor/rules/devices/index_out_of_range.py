"""Token ids beyond the vocabulary."""

from __future__ import annotations

from anymamba.doctor.rule import LIKELY, Remedy, Rule, Signature, Text

RULE = Rule(
    code="AM118",
    cause="index-out-of-range",
    order=650,
    title=Text(
        "an index is out of range on the GPU: most often token ids that the model's vocabulary does not have",
        "GPU 上的索引越界：多半是词表中不存在的 token id",
    ),
    why=Text(
        "The assertion comes from torch's embedding, not from Mamba: an id is not below vocab_size, because "
        "tokenizer and model do not belong together or padding ids are too large. Everything after it on the GPU "
        "fails as well.",
        "该断言来自 torch 的 embedding，而不是 Mamba：某个 id 不小于 vocab_size，因为分词器与模型不配套，或填充 "
        "id 过大。此后 GPU 上的一切操作都会失败。",
    ),
    needed=Text(
        "Yes, in the program: its data and the model do not fit.",
        "需要：程序的数据与模型不匹配。",
    ),
    signatures=(
        Signature(
            r"Assertion `(?:srcIndex < srcSelectDimSize|index >= -sizes\[i\] && index < sizes\[i\]"
            r"|t >= 0 && t < n_classes)[^\n]*", confidence=LIKELY,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "Compare the largest id with the model's vocabulary: assert int(input_ids.max()) < "
                "model.config.vocab_size.",
                "比较最大 id 与词表大小：assert int(input_ids.max()) < model.config.vocab_size。",
            ),
        ),
    ),
)
