# SPDX-License-Identifier: Apache-2.0
"""BERT, RoBERTa and DistilBERT in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.bert import BertConfig, DistilBertConfig, RobertaConfig
from t5x_like.interop.names import Rule

TYPES = {"bert": BertConfig, "roberta": RobertaConfig, "distilbert": DistilBertConfig}
ARCHITECTURES = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "distilbert": "DistilBertForMaskedLM"}
PREFIXES = {"bert": "bert.", "roberta": "roberta.", "distilbert": "distilbert."}
IGNORED = r".*position_ids|cls\.predictions\.decoder\..*|lm_head\.decoder\..*|vocab_projector\.weight|pooler\..*"
SAME = {"hidden_act": "gelu", "activation": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
SAME |= {"tie_word_embeddings": True, "sinusoidal_pos_embds": False, "add_cross_attention": False}
_BERT = {
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "norm_epsilon": "layer_norm_eps",
    "dropout_rate": "hidden_dropout_prob",
    "token_types": "type_vocab_size",
}
_DISTILBERT = {
    "num_layers": "n_layers",
    "d_model": "dim",
    "num_heads": "n_heads",
    "mlp_dim": "hidden_dim",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "dropout_rate": "dropout",
}
_LAYER = {  # of the first two
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/out": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "attention/query": "attention.q_lin",
    "attention/key": "attention.k_lin",
    "attention/value": "attention.v_lin",
    "attention/out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "mlp/up": "ffn.lin1",
    "mlp/out": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
_HEADS = {  # beside the model itself: dense, norm, bias
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}
_TUNED = {"classification": "SequenceClassification", "tagging": "TokenClassification", "span": "QuestionAnswering"}
_CLASSIFIERS = {"roberta": ("classifier.dense", "classifier.out_proj"), "distilbert": ("pre_classifier", "classifier")}


def rules(config: BertConfig) -> list[Rule]:
    at = PREFIXES[config.kind]
    distil = isinstance(config, DistilBertConfig)
    layers = f"{at}transformer.layer" if distil else f"{at}encoder.layer"
    dense, norm, bias = _HEADS[config.kind]
    pooler, labels = f"{at}pooler.dense", "qa_outputs" if config.head == "span" else "classifier"
    if config.head == "classification":
        pooler, labels = _CLASSIFIERS.get(config.kind, (pooler, labels))
    found = [
        Rule(f"{at}embeddings.word_embeddings.weight", "token_embedding/embedding"),
        Rule(f"{at}embeddings.position_embeddings.weight", "encoder/position_embedding/embedding"),
        Rule(f"{at}embeddings.token_type_embeddings.weight", "type_embedding/embedding"),
        *_affine(f"{at}embeddings.LayerNorm", "encoder/embedding_norm"),
        *_affine(dense, "head/dense"),
        *_affine(norm, "head/norm"),
        Rule(bias, "head/logits/bias"),
        *_affine(pooler, "pooler"),
        *_affine(labels, "labels"),
        *_affine("cls.seq_relationship", "next_sentence"),
    ]
    for ours, theirs in (_DISTILBERT_LAYER if distil else _LAYER).items():
        found += _affine(f"{layers}.{{i}}.{theirs}", f"encoder/layers/{{i}}/{ours}")
    return found


def _affine(theirs: str, ours: str) -> list[Rule]:
    """A map's matrix and bias, or a norm's scale and bias."""
    name = "scale" if ours.endswith("norm") else "kernel"
    return [Rule(f"{theirs}.weight", f"{ours}/{name}"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Our fields out of a config.json and the names of the arrays, which tell what heads there are."""
    kind = theirs["model_type"]
    pooler = f"{PREFIXES[kind]}pooler.dense.weight" in names
    found = {ours: theirs[name] for ours, name in (_DISTILBERT if kind == "distilbert" else _BERT).items()}
    if kind == "roberta":
        found["max_length"] -= 2
    if kind != "distilbert":
        found |= {"pooler": pooler, "next_sentence": "cls.seq_relationship.weight" in names}
    head = "span" if "qa_outputs.weight" in names else None
    if "classifier.weight" in names or "classifier.out_proj.weight" in names:
        tags = "BertForTokenClassification" in (theirs.get("architectures") or ())  # which may have an idle pooler
        of_text = pooler and not tags if kind == "bert" else f"{_CLASSIFIERS[kind][0]}.weight" in names
        head = "classification" if of_text else "tagging"
    found |= {"head": head, "num_labels": len(theirs.get("id2label") or range(2))} if head else {}
    return found | {"lm_head": f"{_HEADS[kind][0]}.weight" in names}


def their_fields(config: BertConfig) -> dict[str, Any]:
    """A config.json's fields out of ours."""
    distil = isinstance(config, DistilBertConfig)
    found = {name: getattr(config, ours) for ours, name in (_DISTILBERT if distil else _BERT).items()}
    if isinstance(config, RobertaConfig):
        found["max_position_embeddings"] += 2
    if config.head is not None:
        found["architectures"] = [ARCHITECTURES[config.kind].replace("MaskedLM", _TUNED[config.head])]
        found["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_labels or 2)}
        found["label2id"] = {name: int(i) for i, name in found["id2label"].items()}
    elif config.next_sentence:
        found["architectures"] = ["BertForPreTraining"]
    elif not config.lm_head:
        found["architectures"] = [ARCHITECTURES[config.kind].replace("ForMaskedLM", "Model")]
    return found | ({"activation": "gelu"} if distil else {"hidden_act": "gelu"})
