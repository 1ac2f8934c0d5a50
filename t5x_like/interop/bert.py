# SPDX-License-Identifier: Apache-2.0
"""BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, Longformer and BigBird in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.attention import BigBirdAttentionConfig, LongformerAttentionConfig
from t5x_like.config.models.bert import (
    AlbertConfig,
    BertConfig,
    BigBirdConfig,
    DistilBertConfig,
    ElectraConfig,
    LongformerConfig,
    RobertaConfig,
)
from t5x_like.errors import unknown_name
from t5x_like.interop.names import USUAL, Rule, affine, block, label_names, layers

TYPES = {"bert": BertConfig, "roberta": RobertaConfig, "distilbert": DistilBertConfig}
TYPES |= {"albert": AlbertConfig, "electra": ElectraConfig, "longformer": LongformerConfig, "big_bird": BigBirdConfig}
ARCHITECTURES = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "distilbert": "DistilBertForMaskedLM"}
ARCHITECTURES |= {"albert": "AlbertForMaskedLM", "electra": "ElectraForMaskedLM"}
ARCHITECTURES |= {"longformer": "LongformerForMaskedLM", "big_bird": "BigBirdForMaskedLM"}
PREFIXES = {kind: f"{kind}." for kind in TYPES} | {"big_bird": "bert."}
IGNORED = r".*position_ids|(cls\.)?predictions\.decoder\..*|lm_head\.decoder\..*|vocab_projector\.weight"
IGNORED += r"|generator_lm_head\.weight|pooler\..*"
SAME = {"position_embedding_type": "absolute", "is_decoder": False, "num_hidden_groups": 1, "inner_group_num": 1}
SAME |= {"rescale_embeddings": False}
SAME |= {"tie_word_embeddings": True, "sinusoidal_pos_embds": False, "add_cross_attention": False}
_BERT = USUAL | {"norm_epsilon": "layer_norm_eps", "dropout_rate": "hidden_dropout_prob"}
_BERT |= {"token_types": "type_vocab_size"}
_DISTILBERT = USUAL | {"num_layers": "n_layers", "d_model": "dim", "num_heads": "n_heads", "mlp_dim": "hidden_dim"}
_DISTILBERT |= {"dropout_rate": "dropout"}
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh"}
_LAYER = block(  # of BERT, RoBERTa and ELECTRA
    "attention.self.query attention.self.key attention.self.value attention.output.dense attention.output.LayerNorm "
    "intermediate.dense output.dense output.LayerNorm"
)
_LONGFORMER_LAYER = _LAYER | {f"attention/global_{n}": f"attention.self.{n}_global" for n in ("query", "key", "value")}
_DISTILBERT_LAYER = block(
    "attention.q_lin attention.k_lin attention.v_lin attention.out_lin sa_layer_norm "
    "ffn.lin1 ffn.lin2 output_layer_norm"
)
_ALBERT_LAYER = block(
    "attention.query attention.key attention.value attention.dense attention.LayerNorm "
    "ffn ffn_output full_layer_layer_norm"
)
_LAYERS = dict.fromkeys(TYPES, ("encoder.layer.{i}", _LAYER)) | {
    "distilbert": ("transformer.layer.{i}", _DISTILBERT_LAYER),
    "longformer": ("encoder.layer.{i}", _LONGFORMER_LAYER),
    "albert": ("encoder.albert_layer_groups.{i}.albert_layers.0", _ALBERT_LAYER),
}
_HEADS = {  # beside the model itself: dense, norm, bias
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
}
_HEADS |= {"longformer": _HEADS["roberta"], "big_bird": _HEADS["bert"]}
_POOLERS = {"bert": "bert.pooler.dense", "roberta": "roberta.pooler.dense", "albert": "albert.pooler"}
_POOLERS |= {"longformer": "longformer.pooler.dense", "big_bird": "bert.pooler"}
_PAIRS = {"bert": "cls.seq_relationship", "albert": "sop_classifier.classifier", "big_bird": "cls.seq_relationship"}
_MAPS = {"albert": "albert.encoder.embedding_hidden_mapping_in", "electra": "electra.embeddings_project"}
_REPLACED = "discriminator_predictions.dense"  # ELECTRA's, of which the other half is called dense_prediction
_TUNED = {"classification": "SequenceClassification", "tagging": "TokenClassification", "span": "QuestionAnswering"}
_TWO_MAPS = ("classifier.dense", "classifier.out_proj")
_CLASSIFIERS = {"roberta": _TWO_MAPS, "electra": _TWO_MAPS, "distilbert": ("pre_classifier", "classifier")}


def rules(config: BertConfig) -> list[Rule]:
    kind = config.kind
    at, (layer, parts) = PREFIXES[kind], _LAYERS[kind]
    dense, norm, bias = _HEADS[kind]
    pooler, labels = _POOLERS.get(kind), "qa_outputs" if config.head == "span" else "classifier"
    if config.head == "classification":
        pooler, labels = _CLASSIFIERS.get(kind, (pooler, labels))
    found = [
        Rule(f"{at}embeddings.word_embeddings.weight", "token_embedding/embedding"),
        Rule(f"{at}embeddings.position_embeddings.weight", "encoder/position_embedding/embedding"),
        Rule(f"{at}embeddings.token_type_embeddings.weight", "type_embedding/embedding"),
        *affine(f"{at}embeddings.LayerNorm", "encoder/embedding_norm"),
        *affine(dense, "head/dense"),
        *affine(norm, "head/norm"),
        Rule(bias, "head/logits/bias"),
        *affine(_REPLACED, "replaced_tokens/dense"),
        *affine(f"{_REPLACED}_prediction", "replaced_tokens/logits"),
        *affine(labels, "labels"),
        *layers(f"{at}{layer}", "encoder", parts),
    ]
    for ours, theirs in (("pooler", pooler), ("next_sentence", _PAIRS.get(kind)), ("embedding_map", _MAPS.get(kind))):
        found += [] if theirs is None else affine(theirs, ours)
    return found


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Our fields out of a config.json and the names of the arrays, which tell what heads there are."""
    kind = theirs["model_type"]
    found = {ours: theirs[name] for ours, name in (_DISTILBERT if kind == "distilbert" else _BERT).items()}
    named = "activation" if kind == "distilbert" else "hidden_act"
    activation = theirs.get(named, "gelu")
    accepted = [name for name in _ACTIVATIONS if name == "gelu" or kind in _PAIRS]  # the others' heads have gelu anyway
    if activation not in accepted:
        raise unknown_name(f"config.json: {named}", activation, accepted)
    found["activation"] = _ACTIVATIONS[activation]
    if kind in ("roberta", "longformer"):
        found["max_length"] -= 2
    if kind == "longformer":
        windows = theirs.get("attention_window", 512)
        given = windows if isinstance(windows, list) else [windows] * found["num_layers"]
        found["attention"] = LongformerAttentionConfig(
            window=given[0], windows=tuple(given) if len(set(given)) > 1 else None
        )
    if kind == "big_bird":
        sizes = {"block_size": theirs["block_size"], "random_blocks": theirs["num_random_blocks"]}
        sparse = theirs.get("attention_type", "block_sparse") == "block_sparse"
        found["attention"] = BigBirdAttentionConfig(**sizes, random_in_evaluation=False) if sparse else None
    if kind in _MAPS:
        width = theirs["embedding_size"]
        found["embedding_width"] = None if kind == "electra" and width == found["d_model"] else width
    heads = {"pooler": _POOLERS, "next_sentence": _PAIRS, "replaced_tokens": {"electra": _REPLACED}}
    found |= {ours: f"{name.get(kind)}.weight" in names for ours, name in heads.items()}
    head = "span" if "qa_outputs.weight" in names else None
    if "classifier.weight" in names or "classifier.out_proj.weight" in names:
        tags = any(name.endswith("ForTokenClassification") for name in theirs.get("architectures") or ())
        first = f"{_CLASSIFIERS[kind][0]}.weight" in names if kind in _CLASSIFIERS else found["pooler"] and not tags
        head = "classification" if first else "tagging"  # the latter may have an idle pooler
    found |= {"head": head, "num_labels": len(theirs.get("id2label") or range(2))} if head else {}
    return found | {"lm_head": f"{_HEADS[kind][0]}.weight" in names}


def their_fields(config: BertConfig) -> dict[str, Any]:
    distil = isinstance(config, DistilBertConfig)
    found = {name: getattr(config, ours) for ours, name in (_DISTILBERT if distil else _BERT).items()}
    if isinstance(config, RobertaConfig):
        found["max_position_embeddings"] += 2
    if isinstance(config.attention, LongformerAttentionConfig):
        found["attention_window"] = list(config.attention.windows or [config.attention.window] * config.num_layers)
    if isinstance(config, BigBirdConfig):
        found["attention_type"] = "block_sparse" if config.attention else "original_full"
    if isinstance(config.attention, BigBirdAttentionConfig):
        found |= {"block_size": config.attention.block_size, "num_random_blocks": config.attention.random_blocks}
    if config.kind in _MAPS:
        found["embedding_size"] = config.embedding_width or config.d_model
    if config.head is not None:
        found["architectures"] = [ARCHITECTURES[config.kind].replace("MaskedLM", _TUNED[config.head])]
        found |= label_names(config.num_labels)
    elif config.next_sentence or config.replaced_tokens:
        found["architectures"] = [ARCHITECTURES[config.kind].replace("ForMaskedLM", "ForPreTraining")]
    elif not config.lm_head:
        found["architectures"] = [ARCHITECTURES[config.kind].replace("ForMaskedLM", "Model")]
    names = {ours: name for name, ours in _ACTIVATIONS.items()}
    return found | {"activation" if distil else "hidden_act": names.get(config.activation, "gelu")}
