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
"""eejax generate: continue prompts, early or at full depth."""

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from eejax.cli import (
  conversations,
  generate_arguments,
  generate_inputs,
  mesh_flag,
)
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from eejax.parallel.mesh import MeshChoice

HELP = 'continue prompts: at full depth, early, or faster and the same'
EXAMPLE = (
  "eejax generate runs/tuned/model --prompt 'def main' --criterion gate "
  '--threshold 0.9 --show-exits'
)

# Tokens between two looks at a stream.
STREAM_EVERY = 4

add_arguments = generate_arguments.add_arguments


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import generate_display, output
  from eejax.cli.exit_colours import Painter
  from eejax.recipes.generate import generate

  is_chat = conversations.is_chat(args)
  prompts: list[Any]
  if is_chat:
    prompts = conversations.read_conversations(args)
  else:
    prompts = generate_inputs.read_prompts(args)
  _check_numbers(args, len(prompts))
  sampling = generate_inputs.sampling_config(args)
  mesh = _mesh(args)
  clock = time.perf_counter()
  model, policy = generate_inputs.open_model(args, method=sampling.method)
  load_s = time.perf_counter() - clock
  painter = Painter.of(model.config) if args.show_exits else None
  stream = None
  if args.stream:
    # An answer is shown without what the template wrote before it.
    before = '' if is_chat else str(prompts[0])
    stream = generate_display.Stream(before, painter)
  result = generate(
    model,
    prompts,
    policy=policy,
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    top_k=args.top_k,
    top_p=args.top_p,
    min_p=args.min_p,
    seed=args.seed,
    stop=args.stop,
    dtype=args.dtype,
    weights=args.weights,
    kv=args.kv,
    batch_size=args.batch_size,
    mesh=mesh,
    progress=generate_display.reporter(is_streaming=args.stream),
    on_tokens=None if stream is None else stream.take,
    tokens_per_call=STREAM_EVERY if args.stream else None,
  )
  if stream is not None:
    stream.close()
  for row in result.rows:
    if is_chat:
      row = dataclasses.replace(row, prompt=None)
    generate_display.show_row(row, painter, is_streamed=args.stream)
  if painter is not None:
    depths = [d for row in result.rows for d in row.exit_depths]
    output.show(painter.legend(depths))
  for note in result.notes():
    output.say(note)
  values = result.to_json()
  return {**values, 'timing': {'load_s': load_s, **values['timing']}}


def _mesh(args: argparse.Namespace) -> 'MeshChoice | None':
  """Return the devices, or the words for a pipeline's."""
  from eejax.parallel.mesh import has_stages

  if args.mesh and has_stages(args.mesh):
    return args.mesh
  return mesh_flag.devices(args, processes=mesh_flag.Processes.SEVERAL)


def _check_numbers(args: argparse.Namespace, num_prompts: int) -> None:
  if args.batch_size < 1:
    raise ArgumentError(
      f'--batch-size must be at least 1, not {args.batch_size}.'
    )
  if args.stream and num_prompts != 1:
    raise ArgumentError(
      f'--stream shows one prompt, and there are {num_prompts}; leave it out.'
    )
