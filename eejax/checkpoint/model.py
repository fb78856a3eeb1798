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
"""A model in memory: configuration, parameters, tokenizer, provenance."""

import dataclasses
import functools
import operator
import pathlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

from eejax.config import EarlyExitConfig
from eejax.data.chat import ChatTemplate, chat_template
from eejax.data.tokenizer import Tokenizer, check_vocabulary
from eejax.errors import ArgumentError
from eejax.types import Params

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder with its exits, as it is loaded, tuned, decoded and saved.

  Attributes:
    config: the backbone and its exits.
    params: the parameter tree, blocks stacked or not. After a load of the
      first blocks alone it has fewer of them than `config.model.num_layers`.
    tokenizer_folder: where the tokenizer's files are, if it has any.
    backbone_hash: `backbone_hash` of the whole backbone as it is on disk.
    provenance: where the model came from, plain values for JSON.
  """

  config: EarlyExitConfig
  params: Params
  tokenizer_folder: pathlib.Path | None = None
  backbone_hash: str | None = None
  provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Return the tokenizer, read once.

    Raises:
      EejaxError: there is none, or its vocabulary is larger than the model's.
    """
    if self.tokenizer_folder is None:
      raise ArgumentError(
        'the model has no tokenizer, so it can read no text; give token ids, '
        'or put its tokenizer.json into the folder it came from.'
      )
    tokenizer = Tokenizer.load(self.tokenizer_folder)
    check_vocabulary(tokenizer, self.config.model.vocab_size)
    return tokenizer

  @functools.cached_property
  def chat_template(self) -> ChatTemplate:
    """Return the chat template of the tokenizer's folder, read once.

    Raises:
      EejaxError: there is no tokenizer, or it has no template.
    """
    return chat_template(self.tokenizer)

  @property
  def answer_ends(self) -> tuple[int, ...]:
    """Return the tokens that end an answer in a conversation.

    Raises:
      EejaxError: as `chat_template`.
    """
    ends = (*self.config.model.eos_ids, *self.chat_template.end_ids)
    return tuple(dict.fromkeys(ends))

  def kept(self, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` returns, made once for the arrays of the model.

    What takes long and depends on nothing but the model and `key` is kept
    here, so that a notebook waits for it once. It is made anew where a leaf
    of `params` is another array than it was.
    """
    leaves = jax.tree.leaves(self.params)
    before, values = self.__dict__.get('_kept', ((), {}))
    is_same = len(before) == len(leaves)
    if not is_same or not all(map(operator.is_, before, leaves)):
      values = {}
      self.__dict__['_kept'] = leaves, values
    if key not in values:
      values[key] = make()
    return values[key]
