#!/usr/bin/env python3
"""Makes two tiny models with random weights, and what `transformers` makes of some texts with them under each rule that a manifest can set:
mean and first-token pooling, with and without prompts, scaled to length 1 and not.

`wordpiece` has a tokenizer like BERT's, `unigram` one like XLM-RoBERTa's (SentencePiece). Everything is seeded. Not part of the build or
of the tests; run it again only when the models or the texts are to change:

    python3 -m venv /tmp/reference && . /tmp/reference/bin/activate
    pip install torch==1.13.1 transformers==4.38.2 'numpy<2' 'huggingface_hub<0.26'
    python tests/reference/make_tiny.py tests/reference/tiny

It writes for each model a directory with `config.json`, `tokenizer.json` and `model.safetensors`; `tiny.json` with the texts, the rules and
the versions used, and `tiny.f32`: for each model, rule and text a row of little-endian 32-bit floats, in this order.
"""

import json
import math
import pathlib
import sys

import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SEED = 20240229
HIDDEN, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS = 32, 2, 4, 64, 400, 96

WORDS = """the a of and to in is it that was for on are as with his they at be this from have or by one had not but what all were when we
there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him
see time could no make than first been its who now people my made over did down only way find use may water long little very after words called
just where most know river light house old story film man woman world city night love war life young family day year query passage""".split()

TEXTS = [
    "a",
    "The river was very old.",
    "the RIVER was very OLD",
    "What a time! Who would have known?",
    "One man, one woman, and a house by the water; then the war.",
    "query: passage: query",
    "naïve café déjà vu",
    "Привет, мир",
    "東京は夜の七時",
    "مرحبا بالعالم",
    "emoji 🎉 in the middle",
    "zero\u200bwidth and soft\u00adhyphen",
    "tab\tand\nnew line\r\nend",
    "  spaces   around  ",
    "nul\u0000byte and bell\u0007",
    "NFKC: ﬁne ①②③ ＡＢＣ ﷺ",
    "42 3.14159 1,000,000 -1",
    "x" * 40,
    "don't can't won't it's",
    "?!... -- ()",
    "the people of the city made a film about the river and the house and the night and the war that was in the old world "
    "before they had light",
]

RULES = [
    {"pooling": pooling, "normalize": normalize, "document": document, "query": query}
    for pooling in ("mean", "cls")
    for normalize in (True, False)
    for document, query in (("", ""), ("passage: ", "query: "), ("", "Represent: "))
]


def pieces():
    """Letters and marks, each alone, and words with their beginnings: what the two vocabularies are made of."""
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789"))
    marks = sorted(set(".,;:!?'\"()-"))
    beginnings = sorted({word[:length] for word in WORDS for length in (2, 3) if len(word) > length})
    return letters, marks, sorted(set(WORDS) - set(letters)), beginnings


def wordpiece():
    letters, marks, words, beginnings = pieces()
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *marks, *letters, *(f"##{letter}" for letter in letters), *words]
    entries += [beginning for beginning in beginnings if beginning not in set(words)]
    vocabulary = {entry: number for number, entry in enumerate(entries[:VOCABULARY])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    # As published files do: readers must undo both.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    return tokenizer


def unigram():
    letters, marks, words, beginnings = pieces()
    entries = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored = {"▁": -4.0}
    for number, word in enumerate(words):
        scored.setdefault(f"▁{word}", -5.0 - math.log(number + 2))
    for number, beginning in enumerate(beginnings):
        scored.setdefault(f"▁{beginning}", -8.0 - math.log(number + 2))
        scored.setdefault(beginning, -8.5 - math.log(number + 2))
    for letter in [*letters, *marks, *(letter.upper() for letter in letters if letter.isalpha())]:
        scored.setdefault(letter, -9.5)
    # Letters first, so that none is left out when the vocabulary is full.
    single = [item for item in scored.items() if len(item[0]) == 1]
    longer = [item for item in scored.items() if len(item[0]) > 1]
    entries += (single + longer)[: VOCABULARY - 10 - len(entries)]
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def model(seed):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
        # Wide enough that attention, GELU and normalisation all have something to do.
        initializer_range=0.35,
        layer_norm_eps=1e-7,
    )
    made = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            elif "LayerNorm" in name:
                parameter.normal_(1.0, 0.2)
    return config, made


def vector(made, tokenizer, text, rule):
    """One text alone: no padding that could colour the reference."""
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(text).ids])
        states = made(input_ids=ids).last_hidden_state[0]
        pooled = states.mean(0) if rule["pooling"] == "mean" else states[0]
        if rule["normalize"]:
            pooled = torch.nn.functional.normalize(pooled, dim=0)
    return pooled.numpy().astype("<f4")


def main():
    out = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    rows = []
    for number, (name, tokenizer) in enumerate([("wordpiece", wordpiece()), ("unigram", unigram())]):
        place = out / name
        place.mkdir(parents=True, exist_ok=True)
        config, made = model(SEED + number)
        (place / "config.json").write_text(config.to_json_string())
        tensors = {key: value.contiguous() for key, value in made.state_dict().items() if not key.endswith("position_ids")}
        save_file(tensors, str(place / "model.safetensors"), metadata={"format": "pt"})
        tokenizer.save(str(place / "tokenizer.json"), pretty=False)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for rule in RULES:
            for kind in ("document", "query"):
                rows += [vector(made, tokenizer, rule[kind] + text, rule) for text in TEXTS]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    layout = {"hidden": HIDDEN, "layers": LAYERS, "heads": HEADS, "inner": INNER, "vocabulary": VOCABULARY, "positions": POSITIONS}
    document = {"made_with": versions, "layout": layout, "models": ["wordpiece", "unigram"], "rules": RULES, "texts": TEXTS}
    (out / "tiny.json").write_text(json.dumps(document, ensure_ascii=True, indent=0) + "\n")
    (out / "tiny.f32").write_bytes(numpy.concatenate(rows).tobytes())
    print(len(rows), "vectors")


if __name__ == "__main__":
    main()
