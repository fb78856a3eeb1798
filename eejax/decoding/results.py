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


class FinishReason(enum.Enum):
  """Why a row ended.

  EOS: it emitted an end token. STOP: its text met a stop string. LENGTH: it
  reached its number of tokens, or the end of the context. NON_FINITE: its
  logits were no numbers any more; the tokens before are good. CANCELLED: it
  was taken out.
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
    logprobs: log-probability of each, untempered, under its own head.
    pieces: what each token added to the row's text; text that is held back
      comes with a later token.
    finish_reason: why the row ended, or None while it goes on.
  """

  row: int
  tokens: tuple[int, ...]
  exit_depths: tuple[int, ...]
  scores: tuple[float | None, ...]
  logprobs: tuple[float, ...]
  pieces: tuple[str, ...]
  finish_reason: FinishReason | None


@dataclasses.dataclass(frozen=True)
class GeneratedRow:
  """The continuation of one prompt; its tuples are equally long.

  Attributes:
    prompt_tokens: the prompt.
    tokens: what was generated, an end token and the token that completed a
      stop string included.
    exit_depths: blocks each token went through before it was emitted.
    scores: score at the exit each came from; None from the final head.
    logprobs: log-probability of each, untempered, under its own head.
    pieces: what each token added to the text; all empty without texts.
    text: the text of `tokens` up to a stop string; None without texts.
    finish_reason: why it ended.
    accounting: work done for it. Tokens that were thrown away after a stop
      string count as well.
    prompt: the prompt as text, None where it is not known.
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

  The fields are those of `eejax.decoding.loop.cache.Emission`.
  """

  token: np.ndarray
  depth: np.ndarray
  score: np.ndarray
  log_prob: np.ndarray

  @classmethod
  def fetch(cls, chunk: Chunk) -> 'tuple[EmittedTokens, ...]':
    """Bring a chunk to the host; return what each row emitted."""
    steps = int(chunk.steps)
    num = np.asarray(chunk.emitted.num)[:steps]  # [C, B]
    names = [f.name for f in dataclasses.fields(cls)]
    fetched = {n: np.asarray(getattr(chunk.emitted, n))[:steps] for n in names}
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
    self, row: int, text: TextStream | None, *, eos_ids: tuple[int, ...]
  ):
    self._row, self._text, self._eos_ids = row, text, eos_ids
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
    )
    self.tokens += update.tokens
    self._updates.append(update)
    return update

  def _reason(self, emitted_ids: list[int], has_failed: bool) -> FinishReason:
    if has_failed:
      return FinishReason.NON_FINITE
    ended = bool(emitted_ids) and emitted_ids[-1] in self._eos_ids
    return FinishReason.EOS if ended else FinishReason.LENGTH

  def result(
    self, prompt: Sequence[int], accounting: Accounting
  ) -> GeneratedRow:
    """Return everything about the row, which has ended."""
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
      if self._text is not None and token not in self._eos_ids:
        piece = self._text.push(token)
      pieces.append(piece)
      if self._has_stopped:
        break
    return pieces

  def _finish_text(self) -> str:
    return '' if self._text is None else self._text.finish()
