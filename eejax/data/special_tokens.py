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
"""Which tokens start and end a text, as the files of a model folder say it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from eejax.data import bpe
from eejax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
  """Name the control tokens of a tokenizer by id.

  Attributes:
    bos_id: token that starts a text, or None.
    eos_ids: tokens that end a text; the first is the tokenizer's own, others
      are further ones at which the model stops.
    adds_bos: whether the tokenizer's makers put the start token before every
      text.
  """

  bos_id: int | None = None
  eos_ids: tuple[int, ...] = ()
  adds_bos: bool = False


def read_special_tokens(
  tokenizer: tokenizers.Tokenizer, files: Mapping[str, bytes]
) -> SpecialTokens:
  """Read the control tokens from the files beside a `tokenizer.json`.

  The tokenizer's own files name tokens by their text and come first. Where
  they exist and name no start token there is none, even if the model's
  `config.json` has an id (Qwen2's does, and its texts start without it).

  Args:
    tokenizer: turns names into ids.
    files: contents by file name; any may be missing.

  Raises:
    CheckpointError: a file is not JSON, or names a token that is not there.
  """
  own = _own_values(files)
  generation = _json(files, 'generation_config.json')
  model = _json(files, 'config.json')
  bos_id = _id_of(tokenizer, own.get('bos_token'))
  eos_id = _id_of(tokenizer, own.get('eos_token'))
  if not own:
    bos_id = generation.get('bos_token_id', model.get('bos_token_id'))
  ends: list[int | None] = [eos_id]
  for config in (generation, model):
    value = config.get('eos_token_id')
    ends += value if isinstance(value, list) else [value]
  eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
  adds_bos = own.get('add_bos_token')
  if adds_bos is None:
    adds_bos = tokenizer.encode('').ids[:1] == [bos_id]
  return SpecialTokens(
    bos_id=bos_id,
    eos_ids=eos_ids,
    adds_bos=bool(adds_bos) and bos_id is not None,
  )


def named_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
  """Return the control tokens by their names, such as `bos_token`.

  Args:
    files: contents by file name; any may be missing.
  """
  texts = {
    name: token.get('content') if isinstance(token, dict) else token
    for name, token in _own_values(files).items()
    if name.endswith('_token')
  }
  return {n: text for n, text in texts.items() if isinstance(text, str)}


def tokenizer_config(
  tokenizer: tokenizers.Tokenizer, special: SpecialTokens
) -> dict[str, Any]:
  """Return a `tokenizer_config.json` from which the same tokens are read."""
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'add_bos_token': special.adds_bos,
    'clean_up_tokenization_spaces': False,
  }
  ids = {
    'bos_token': special.bos_id,
    'eos_token': special.eos_ids[0] if special.eos_ids else None,
    'pad_token': tokenizer.token_to_id(bpe.PAD),
  }
  for name, token_id in ids.items():
    if token_id is not None:
      config[name] = tokenizer.id_to_token(token_id)
  return config


def _own_values(files: Mapping[str, bytes]) -> dict[str, Any]:
  """Return what the tokenizer's own files say."""
  return {
    **_json(files, 'special_tokens_map.json'),
    **_json(files, 'tokenizer_config.json'),
  }


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
  if name not in files:
    return {}
  try:
    value = json.loads(files[name])
  except ValueError as error:
    raise CheckpointError(f'{name} is not valid JSON: {error}.') from error
  if not isinstance(value, dict):
    raise CheckpointError(f'{name} must hold a JSON object.')
  return value


def _id_of(tokenizer: tokenizers.Tokenizer, token: Any) -> int | None:
  if isinstance(token, dict):  # an AddedToken, written out
    token = token.get('content')
  if token is None:
    return None
  found = tokenizer.token_to_id(token)
  if found is None:
    raise CheckpointError(
      f'the tokenizer has no token {token!r}, which its configuration names; '
      'the files in its folder do not belong together.'
    )
  return found
