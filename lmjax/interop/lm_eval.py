"""A run folder for lm-evaluation-harness, whose numbers can be held beside published ones.

    lm_eval.simple_evaluate(model=RunLM("runs/mine"), tasks=["lambada_openai"])

Texts are cut into tokens, windows and batches as the harness's own backend for transformers does
with the exported model, so the log-likelihoods are the same.
Shapes: B batch, T time, S = T + 1, V vocabulary.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.config import ConfigError
from lmjax.models.model import Model
from lmjax.runtime import generation, restoring
from lmjax.text.json_tokenizer import JsonTokenizer

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError:
    raise ConfigError(
        'expected the package lm_eval, found none; pip install "lmjax[eval]"'
    ) from None


class RunLM(TemplateLM):
    """The model of a run folder.

    `add_bos_token` puts BOS before each text, or does not; none means as the exported tokenizer
    does. As in the harness's own backend, a rolling likelihood begins with BOS anyway, and counts a
    second one where the tokenizer adds it: give False for such tasks.
    """

    def __init__(
        self,
        run: str | Path,
        step: int | None = None,
        batch_size: int = 8,
        add_bos_token: bool | None = None,
        max_gen_toks: int = 256,
    ) -> None:
        """Raises DataError for a run that cannot be read, ConfigError for an encoder."""
        super().__init__()
        self._model, self._params, config = restoring.restore(run, step)
        self._model.init_cache(1, 1)  # refuses a model without a next token
        self._tokens = restoring.restore_tokenizer(run)
        self._rows = restoring.known_rows(Path(run), config, self._tokens)
        self.max_length: int = config.model.length
        self.batch_size, self.max_gen_toks = batch_size, max_gen_toks
        self._add_bos_token = add_bos_token

    @property
    def eot_token_id(self) -> int:
        return self._tokens.bos

    @property
    def tokenizer_name(self) -> str:
        return "lmjax"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text."""
        given = self._add_bos_token if add_special_tokens is None else add_special_tokens
        special = given is None or given
        if isinstance(self._tokens, JsonTokenizer):
            return self._tokens.encode_as_told(string, special)
        return [self._tokens.bos] * special + self._tokens.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy choice makes it."""
        order = sorted(range(len(requests)), key=lambda n: -len(requests[n][1] + requests[n][2]))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for batch in _batches(order, self.batch_size):
            rows = [(requests[n][1] + requests[n][2])[-(self.max_length + 1) :] for n in batch]
            longest = max(map(len, rows)) - 1
            T = min(self.max_length, max(8, 1 << (longest - 1).bit_length()))
            tokens_BS = np.zeros((self.batch_size, T + 1), np.int32)
            for row_S, row in zip(tokens_BS, rows, strict=False):
                row_S[: len(row)] = row
            scores_BT, likeliest_BT = jax.device_get(
                _score(self._model, self._rows, self._params, tokens_BS)
            )
            for n, row, scores_T, likeliest_T in zip(
                batch, rows, scores_BT, likeliest_BT, strict=False
            ):
                part = slice(max(0, len(row) - 1 - len(requests[n][2])), len(row) - 1)
                found[n] = float(scores_T[part].sum()), bool(likeliest_T[part].all())
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, in windows that do not overlap."""
        del disable_tqdm
        totals = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [("", *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(score for score, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue texts up to a stop sequence; greedily, unless a task asks for a temperature."""
        del disable_tqdm
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, settings: dict[str, Any]) -> str:
        asked = normalize_gen_kwargs(settings, self.max_gen_toks)
        stops = [stop for stop in asked["until"] if stop]
        most = asked["max_gen_toks"]
        ids = self.tok_encode(context)[-max(1, self.max_length - most) :] or [self.eot_token_id]
        chunks_1N = generation.generate(
            self._model,
            self._params,
            [ids],
            vocab_size=self._tokens.vocab_size,
            max_tokens=most,
            temperature=asked["temperature"],
        )
        made = (id for chunk_1N in chunks_1N for id in chunk_1N[0].tolist())
        text = ""
        for piece in self._tokens.stream(
            itertools.takewhile(lambda id: id != self.eot_token_id, made)
        ):
            text += piece
            if any(stop in text for stop in stops):
                break
        return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _batches(order: list[int], size: int) -> Iterator[list[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    model: Model, rows: int, params: Any, tokens_BS: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each token given those before it, and whether it is the likeliest.

    Of the first `rows` of the vocabulary: the rest are no tokens.
    """
    logits_BTV = model.apply(params, tokens_BS[:, :-1])[..., :rows]
    targets_BT = tokens_BS[:, 1:]
    scores_BTV = jax.nn.log_softmax(logits_BTV)
    scores_BT = jnp.take_along_axis(scores_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return scores_BT, logits_BTV.argmax(-1) == targets_BT
