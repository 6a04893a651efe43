"""Our SentencePiece model as a `tokenizer.json`, which transformers and others read."""

from pathlib import Path
from typing import Any

import sentencepiece

_BLANK = "\u2581"
_FRAGILE = "  \ufb01  a "  # a ligature, and blanks at both ends and in the middle


def convert(model: Path, mask_id: int | None) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The contents of tokenizer.json and tokenizer_config.json; the same ids for the same text.

    BOS is put before a text unless told otherwise. None for a model with a normalisation of its
    own, which this does not tell.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
    if processor.normalize(_FRAGILE) != _FRAGILE.replace(" ", _BLANK):
        return None
    pieces = [processor.id_to_piece(id) for id in range(processor.vocab_size())]
    scores = [processor.get_score(id) for id in range(processor.vocab_size())]
    bos, unknown = pieces[processor.bos_id()], pieces[processor.unk_id()]
    special = {bos: processor.bos_id(), unknown: processor.unk_id()}
    if mask_id is not None:
        special["<mask>"] = mask_id
    normal = [
        id
        for id, piece in enumerate(pieces)
        if not (processor.is_byte(id) or piece in special or processor.is_control(id))
    ]
    if all(scores[id] == int(scores[id]) for id in normal):  # bpe: the rank of a merge
        algorithm = _bpe(pieces, scores, normal, unknown)
    else:
        algorithm = {
            "type": "Unigram",
            "unk_id": processor.unk_id(),
            "vocab": [[piece, score] for piece, score in zip(pieces, scores, strict=True)],
            "byte_fallback": True,
        }
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(id, piece) for piece, id in special.items()],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, a],
            "pair": [first, a, b],
            "special_tokens": {bos: {"id": bos, "ids": [special[bos]], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": algorithm,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": bos,
        "unk_token": unknown,
        "clean_up_tokenization_spaces": False,
    }
    masked = {} if mask_id is None else {"mask_token": "<mask>"}
    return tokenizer, settings | masked


def _bpe(pieces: list[str], scores: list[float], normal: list[int], unknown: str) -> dict[str, Any]:
    """Merges in the order of the pieces they make; each piece may be made in several ways."""
    ids = {pieces[id]: id for id in normal}
    merges = []
    for id in sorted(normal, key=lambda id: -scores[id]):
        piece = pieces[id]
        cuts = ((piece[:n], piece[n:]) for n in range(1, len(piece)))
        known = [(left, right) for left, right in cuts if left in ids and right in ids]
        merges += sorted(known, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {piece: id for id, piece in enumerate(pieces)},
        "merges": [list(cut) for cut in merges],
    }


def _added(id: int, piece: str) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": piece, **plain, "special": True}
