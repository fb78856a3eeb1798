# Copyright 2026 The eejax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What generation returns."""

import dataclasses
import enum
import math
from collections.abc import Sequence

import numpy as np

from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.loop.while_loop import Chunk
from eejax.decoding.policy.policy import Policy
from eejax.decoding.text import TextStream

# A token and its log-probability.
TokenLogProb = tuple[int, float]


class FinishReason(enum.Enum):
  """Why a row ended.

  EOS: it emitted an end token, the model's or one of its own. STOP: its text
  met a stop string. LENGTH: it reached its number of tokens, or the end of the
  context. NON_FINITE: its logits were no numbers any more; the tokens before
  are good. CANCELLED: it was taken out.
  """

  EOS = 'eos'
  STOP = 'stop'
  LENGTH = 'length'
  NON_FINITE = 'non_finite'
  CANCELLED = 'cancelled'


@dataclasses.dataclass(frozen=True)
class TokenUpdate:
  """What one row emitted in one call of the loop.

  Attributes:
    row: which row.
    tokens: its new tokens.
    exit_depths: blocks each went through before it was emitted.
    scores: score at the exit each came from; None from the final head.
    logprobs: log-probability of each by the logits of the head that emitted
      it, before bias, temperature and filters; the exit's head for a token
      that was emitted early, the final head where it was verified.
    pieces: what each token added to the row's text; text that is held back
      comes with a later token.
    finish_reason: why the row ended, or None while it goes on.
    top_logprobs: for each token, the likeliest ones by the same logits and
      their log-probabilities, best first; empty where none were asked for.
  """

  row: int
  tokens: tuple[int, ...]
  exit_depths: tuple[int, ...]
  scores: tuple[float | None, ...]
  logprobs: tuple[float, ...]
  pieces: tuple[str, ...]
  finish_reason: FinishReason | None
  top_logprobs: tuple[tuple[TokenLogProb, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class GeneratedRow:
  """The continuation of one prompt; its tuples are equally long.

  Attributes:
    prompt_tokens: the prompt.
    tokens: what was generated, an end token and the token that completed a
      stop string included.
    exit_depths: blocks each token went through before it was emitted.
    scores: score at the exit each came from; None from the final head.
    logprobs: log-probability of each by the logits of the head that emitted
      it, before bias, temperature and filters; the exit's head for a token
      that was emitted early, the final head where it was verified.
    pieces: what each token added to the text; all empty without texts.
    text: the text of `tokens` up to a stop string; None without texts.
    finish_reason: why it ended.
    accounting: work done for it. Tokens that were thrown away after a stop
      string count as well.
    prompt: the prompt as text, None where it is not known.
    top_logprobs: for each token, the likeliest ones by the same logits and
      their log-probabilities, best first; empty where none were asked for.
    stop_string: the stop string that ended it; None where none did.
    reused_tokens: tokens of the prompt whose keys and values were there from
      an earlier request of an engine.
  """

  prompt_tokens: tuple[int, ...]
  tokens: tuple[int, ...]
  exit_depths: tuple[int, ...]
  scores: tuple[float | None, ...]
  logprobs: tuple[float, ...]
  pieces: tuple[str, ...]
  text: str | None
  finish_reason: FinishReason
  accounting: Accounting
  prompt: str | None = None
  top_logprobs: tuple[tuple[TokenLogProb, ...], ...] = ()
  stop_string: str | None = None
  reused_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Timing:
  """Wall-clock times of decoding.

  Attributes:
    compile_s: compiling, next to nothing when the programs were there.
    prefill_s: running the prompts.
    decode_s: generating.
    tokens_per_s: tokens of all rows over `decode_s`.
  """

  compile_s: float = 0.0
  prefill_s: float = 0.0
  decode_s: float = 0.0
  tokens_per_s: float = 0.0

  def __add__(self, other: 'Timing') -> 'Timing':
    """Return the times of two batches, one after the other."""
    tokens = sum(t.tokens_per_s * t.decode_s for t in (self, other))
    both = Timing(
      self.compile_s + other.compile_s, self.prefill_s + other.prefill_s
    )
    return both.with_decoding(
      self.decode_s + other.decode_s, num_tokens=round(tokens)
    )

  def with_decoding(self, seconds: float, *, num_tokens: int) -> 'Timing':
    """Return these times and those of generating `num_tokens` tokens."""
    return dataclasses.replace(
      self, decode_s=seconds, tokens_per_s=num_tokens / max(seconds, 1e-9)
    )


@dataclasses.dataclass(frozen=True)
class DecodeResult:
  """The continuations of one batch.

  Attributes:
    rows: one a prompt, in their order.
    timing: wall-clock times of the batch.
    batch: what the batch read from memory.
    policy: the policy that was followed.
  """

  rows: tuple[GeneratedRow, ...]
  timing: Timing
  batch: BatchAccounting
  policy: Policy

  @property
  def accounting(self) -> Accounting:
    """Return the work of all rows together."""
    return sum((r.accounting for r in self.rows), start=Accounting())


@dataclasses.dataclass(frozen=True)
class EmittedTokens:
  """What one row emitted in one call, on the host; arrays [n].

  The fields are those of `eejax.decoding.loop.cache.Emission`; the likeliest
  tokens are arrays [n, K], or None where none were kept.
  """

  token: np.ndarray
  depth: np.ndarray
  score: np.ndarray
  log_prob: np.ndarray
  top_ids: np.ndarray | None = None
  top_log_probs: np.ndarray | None = None

  @classmethod
  def fetch(cls, chunk: Chunk) -> 'tuple[EmittedTokens, ...]':
    """Bring a chunk to the host; return what each row emitted."""
    emitted, steps = chunk.emitted, int(chunk.steps)
    names = ('token', 'depth', 'score', 'log_prob')
    arrays = {name: getattr(emitted, name) for name in names}
    if emitted.top is not None:
      arrays['top_ids'] = emitted.top.ids
      arrays['top_log_probs'] = emitted.top.log_probs
    num = np.asarray(emitted.num)[:steps]  # [C, B]
    fetched = {n: np.asarray(a)[:steps] for n, a in arrays.items()}
    room = fetched['token'].shape[-1]
    is_there = np.arange(room) < num[..., None]  # [C, B, E]
    return tuple(
      cls(**{n: v[:, row][is_there[:, row]] for n, v in fetched.items()})
      for row in range(num.shape[1])
    )


class RowProgress:
  """What one row has emitted so far.

  Attributes:
    tokens: tokens kept so far.
    num_emitted: tokens emitted so far, those after a stop string included.
    finish_reason: why the row ended, or None while it goes on.
  """

  def __init__(
    self,
    row: int,
    text: TextStream | None,
    *,
    end_ids: tuple[int, ...],
    top_logprobs: int = 0,
  ):
    """Start a row.

    Args:
      row: its number.
      text: to get text and heed stop strings, or None.
      end_ids: tokens that end it.
      top_logprobs: how many of the likeliest tokens to keep.
    """
    self._row, self._text, self._end_ids = row, text, end_ids
    self._top_logprobs = top_logprobs
    self._updates: list[TokenUpdate] = []
    self.tokens: list[int] = []
    self.num_emitted = 0
    self.finish_reason: FinishReason | None = None

  @property
  def ended(self) -> bool:
    """Return whether nothing more is wanted of the row."""
    return self.finish_reason is not None

  @property
  def may_stop(self) -> bool:
    """Return whether a stop string may end the row."""
    return self._text is not None and self._text.may_stop

  def take(
    self, emitted: EmittedTokens, *, is_live: bool, has_failed: bool = False
  ) -> TokenUpdate:
    """Keep what the row emitted in one call, up to a stop string.

    Args:
      emitted: what the row emitted.
      is_live: whether it would go on.
      has_failed: whether its logits are no numbers any more.
    """
    emitted_ids = emitted.token.tolist()
    self.num_emitted += len(emitted_ids)
    pieces = self._read(emitted_ids)
    if self._has_stopped:
      self.finish_reason = FinishReason.STOP
    elif not is_live:
      rest = self._finish_text()
      if pieces:
        pieces[-1] += rest
      self.finish_reason = self._reason(emitted_ids, has_failed)
    kept = len(pieces)
    update = TokenUpdate(
      row=self._row,
      tokens=tuple(emitted_ids[:kept]),
      exit_depths=tuple(emitted.depth[:kept].tolist()),
      scores=tuple(
        None if math.isnan(s) else s for s in emitted.score[:kept].tolist()
      ),
      logprobs=tuple(emitted.log_prob[:kept].tolist()),
      pieces=tuple(pieces),
      finish_reason=self.finish_reason,
      top_logprobs=self._top(emitted)[:kept],
    )
    self.tokens += update.tokens
    self._updates.append(update)
    return update

  def _reason(self, emitted_ids: list[int], has_failed: bool) -> FinishReason:
    if has_failed:
      return FinishReason.NON_FINITE
    ended = bool(emitted_ids) and emitted_ids[-1] in self._end_ids
    return FinishReason.EOS if ended else FinishReason.LENGTH

  def result(
    self,
    prompt: Sequence[int],
    accounting: Accounting,
    *,
    reused_tokens: int = 0,
  ) -> GeneratedRow:
    """Return everything about the row, which has ended.

    Args:
      prompt: its tokens.
      accounting: the work done for it.
      reused_tokens: see `GeneratedRow`.
    """
    assert self.finish_reason is not None
    join = lambda name: tuple(
      value for update in self._updates for value in getattr(update, name)
    )
    return GeneratedRow(
      prompt_tokens=tuple(prompt),
      tokens=tuple(self.tokens),
      exit_depths=join('exit_depths'),
      scores=join('scores'),
      logprobs=join('logprobs'),
      pieces=join('pieces'),
      text=None if self._text is None else self._text.text,
      finish_reason=self.finish_reason,
      accounting=accounting,
      top_logprobs=join('top_logprobs'),
      stop_string=None if self._text is None else self._text.stop_string,
      reused_tokens=reused_tokens,
    )

  def _top(
    self, emitted: EmittedTokens
  ) -> tuple[tuple[TokenLogProb, ...], ...]:
    count = self._top_logprobs
    if not count or emitted.top_ids is None or emitted.top_log_probs is None:
      return ((),) * len(emitted.token)
    ids = emitted.top_ids[:, :count].tolist()
    log_probs = emitted.top_log_probs[:, :count].tolist()
    return tuple(
      tuple(zip(*pair, strict=True))
      for pair in zip(ids, log_probs, strict=True)
    )

  @property
  def _has_stopped(self) -> bool:
    return self._text is not None and self._text.stopped

  def _read(self, tokens: Sequence[int]) -> list[str]:
    """Return the text of each token that is kept.

    An end token is kept and has no text.
    """
    pieces: list[str] = []
    for token in tokens:
      piece = ''
      if self._text is not None and token not in self._end_ids:
        piece = self._text.push(token)
      pieces.append(piece)
      if self._has_stopped:
        break
    return pieces

  def _finish_text(self) -> str:
    return '' if self._text is None else self._text.finish()
