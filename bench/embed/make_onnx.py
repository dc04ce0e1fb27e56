"""Writes a BERT encoder as ONNX, from the same files that the engine reads, as ONNX Runtime likes it best.

    python make_onnx.py MODEL_DIR OUT_DIR

Three files: `fp32.onnx` (standard operators, as exporters write them), `fused.onnx` (after ONNX Runtime's own optimizer for
transformers) and `int8.onnx` (dynamic quantization by ONNX Runtime's own tool). Needs numpy, onnx, onnxruntime.
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tensors(path):
    """The tensors of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(content[8 + length + at["data_offsets"][0] : 8 + length + at["data_offsets"][1]], np.float32)
        .reshape(at["shape"])
        .copy()
        for name, at in header.items()
        if at["dtype"] == "F32"
    }


class Graph:
    """Nodes and constants, named as they come."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, value, name=None):
        self.count += 1
        name = name or f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator, *inputs, **attributes):
        self.count += 1
        name = attributes.pop("out", f"v{self.count}")
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"n{self.count}", **attributes))
        return name


def encoder(config, weights):
    """Ids and mask to the mean of the last layer over the mask, of length 1."""
    graph, hidden, heads = Graph(), config["hidden_size"], config["num_attention_heads"]
    epsilon, width = config["layer_norm_eps"], hidden // heads

    def norm(x, name):
        scale, bias = graph.constant(weights[f"{name}.weight"]), graph.constant(weights[f"{name}.bias"])
        return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def linear(x, name):
        product = graph.node("MatMul", x, graph.constant(np.ascontiguousarray(weights[f"{name}.weight"].T), f"{name}.weight_t"))
        return graph.node("Add", graph.constant(weights[f"{name}.bias"], f"{name}.bias"), product)

    def parted(x, order):
        shape = graph.constant(np.array([0, 0, heads, width], np.int64))
        return graph.node("Transpose", graph.node("Reshape", x, shape), perm=order)

    shape = graph.node("Shape", "input_ids")
    length = graph.node("Gather", shape, graph.constant(np.array(1, np.int64)), axis=0)
    length = graph.node("Unsqueeze", length, graph.constant(np.array([0], np.int64)))
    zero, one = graph.constant(np.array([0], np.int64)), graph.constant(np.array([1], np.int64))
    places = graph.node("Slice", graph.constant(np.arange(config["max_position_embeddings"], dtype=np.int64)[None]), zero, length, one)
    words = graph.node("Gather", graph.constant(weights["embeddings.word_embeddings.weight"]), "input_ids", axis=0)
    segment = graph.node("Gather", graph.constant(weights["embeddings.token_type_embeddings.weight"]), "token_type_ids", axis=0)
    place = graph.node("Gather", graph.constant(weights["embeddings.position_embeddings.weight"]), places, axis=0)
    x = norm(graph.node("Add", graph.node("Add", words, segment), place), "embeddings.LayerNorm")

    mask = graph.node("Unsqueeze", "attention_mask", graph.constant(np.array([1, 2], np.int64)))
    mask = graph.node("Cast", mask, to=TensorProto.FLOAT)
    mask = graph.node("Mul", graph.node("Sub", graph.constant(np.array(1, np.float32)), mask), graph.constant(np.array(-10000, np.float32)))
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        query = parted(linear(x, f"{at}.attention.self.query"), [0, 2, 1, 3])
        key = parted(linear(x, f"{at}.attention.self.key"), [0, 2, 3, 1])
        value = parted(linear(x, f"{at}.attention.self.value"), [0, 2, 1, 3])
        scores = graph.node("Div", graph.node("MatMul", query, key), graph.constant(np.array(width**0.5, np.float32)))
        shares = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
        answer = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        answer = graph.node("Reshape", answer, graph.constant(np.array([0, 0, hidden], np.int64)))
        answer = graph.node("Add", linear(answer, f"{at}.attention.output.dense"), x)
        x = norm(answer, f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        erf = graph.node("Erf", graph.node("Div", inner, graph.constant(np.array(2**0.5, np.float32))))
        half = graph.node("Mul", inner, graph.node("Add", erf, graph.constant(np.array(1, np.float32))))
        inner = graph.node("Mul", half, graph.constant(np.array(0.5, np.float32)))
        x = norm(graph.node("Add", linear(inner, f"{at}.output.dense"), x), f"{at}.output.LayerNorm")
    graph.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"], name="last"))

    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "length", hidden])]
    made = helper.make_graph(graph.nodes, "encoder", ids, out, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    model = encoder(config, tensors(source / "model.safetensors"))
    onnx.checker.check_model(model)
    onnx.save(model, out / "fp32.onnx")

    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(out / "fp32.onnx"), "bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"], opt_level=0
    )
    print(fused.get_fused_operator_statistics())
    fused.save_model_to_file(str(out / "fused.onnx"))
    quantize_dynamic(out / "fp32.onnx", out / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    options = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(out / "fused.onnx", out / "int8_fused.onnx", per_channel=True, weight_type=QuantType.QInt8, extra_options=options)


main()
