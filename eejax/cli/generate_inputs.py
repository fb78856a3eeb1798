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
"""What the arguments of `eejax generate` name: prompts, model, policy."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from eejax import storage
from eejax.cli.policy_flags import chosen_policy
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.checkpoint.model import Model
  from eejax.decoding.policy.policy import Policy
  from eejax.ops.sampling import SamplingConfig, SamplingMethod


def read_prompts(args: argparse.Namespace) -> list[str]:
  """Return the prompts that were given, in order."""
  prompts = list(args.prompt or [])
  if args.prompts:
    prompts += _read_file(storage.as_path(args.prompts))
  if not prompts:
    raise ArgumentError('there is no prompt; give --prompt or --prompts.')
  return prompts


def read_text(path: storage.AnyPath, *, what: str) -> str:
  """Return a text file's content.

  Args:
    path: the file, here or in a store.
    what: it holds, as a sentence names it.

  Raises:
    ArgumentError: it cannot be read.
  """
  try:
    with storage.reported(path, what='read'):
      return path.read_text(encoding='utf-8')
  except OSError as error:
    raise ArgumentError(
      f'the {what} {path} cannot be read ({error.strerror}).'
    ) from error
  except UnicodeDecodeError as error:
    raise ArgumentError(f'the {what} {path} are not UTF-8 text.') from error


def _read_file(path: storage.AnyPath) -> list[str]:
  lines = read_text(path, what='prompts').splitlines()
  lines = [line for line in lines if line.strip()]
  if path.suffix != '.jsonl':
    return lines
  prompts = []
  for number, line in enumerate(lines, start=1):
    try:
      prompts.append(json.loads(line)['prompt'])
    except (ValueError, KeyError, TypeError) as error:
      raise ArgumentError(
        f"line {number} of {path} is no JSON object with 'prompt'."
      ) from error
    if not isinstance(prompts[-1], str):
      raise ArgumentError(f"'prompt' in line {number} of {path} is no text.")
  return prompts


def sampling_config(args: argparse.Namespace) -> 'SamplingConfig':
  from eejax.ops.sampling import SamplingConfig

  return SamplingConfig(
    temperature=args.temperature,
    top_k=args.top_k,
    top_p=args.top_p,
    min_p=args.min_p,
    seed=args.seed,
  )


def open_model(
  args: argparse.Namespace, *, method: 'SamplingMethod'
) -> 'tuple[Model, Policy]':
  """Return the model and the policy that arguments name.

  Of an eejax checkpoint nothing beyond an exit that is always taken is read,
  unless the policy has a certificate, which is checked on the whole model, or
  a pipeline decodes. On a mesh files are mapped, not read: each device reads
  its own part when the model is laid out.

  Args:
    args: of the command line.
    method: how tokens are chosen.

  Raises:
    EejaxError: there is no such model, or the policy does not fit it.
  """
  from eejax.checkpoint import folder, manifest, packaged, streaming
  from eejax.checkpoint.load import load, map_source
  from eejax.cli import output
  from eejax.decoding.loop.plan import make_plan
  from eejax.parallel.mesh import has_stages

  has_pipeline = bool(args.mesh) and has_stages(args.mesh)
  is_mapped = bool(args.mesh) and not has_pipeline
  path = packaged.resolve(args.checkpoint, progress=output.reporter())
  if not (path / manifest.NAME).is_file():
    if is_mapped:
      model = map_source(path, progress=output.reporter())
    else:
      model = load(path, dtype=args.dtype, progress=output.reporter())
    _ = model.tokenizer  # raises where there is none
    return model, chosen_policy(args, model.config)
  stored = folder.read_manifest(path)
  policy = chosen_policy(args, stored.config)
  plan, _ = make_plan(stored.config, policy=policy, method=method)
  is_whole = policy.certificate is not None or has_pipeline
  depth = None if is_whole else plan.depth
  with output.waiting(f'reading {path}'):
    if is_mapped:
      model = streaming.map_checkpoint(path, depth=depth)
    else:
      model = folder.load(
        path, depth=depth, layout=folder.Layout.UNSTACKED, dtype=args.dtype
      )
  _ = model.tokenizer  # raises where there is none
  # Exits that were not read are there all the same; see `recipes.generate`.
  return dataclasses.replace(model, config=stored.config), policy
