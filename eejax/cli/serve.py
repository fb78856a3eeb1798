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
"""eejax serve: answer over HTTP as the OpenAI protocol has it."""

import argparse
import contextlib
import logging
import pathlib
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eejax.cli import mesh_flag, policy_flags
from eejax.cli.gin import policy as gin_policy
from eejax.errors import ArgumentError

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from eejax.checkpoint.model import Model
  from eejax.decoding.policy.policy import Policy
  from eejax.serving.api_keys import ApiKeys
  from eejax.serving.served_model import ServedModel
  from eejax.serving.server_settings import ServerLimits

HELP = 'serve models over HTTP: the OpenAI protocol, with exits'
EXAMPLE = 'eejax serve default --mode speculative --port 8000'

_LIMITS = (
  ('--slots', int, 8, 'texts that are decoded together'),
  ('--max-length', int, None, 'tokens of a prompt and its text together'),
  ('--max-waiting', int, 64, 'texts that may wait for a slot; then 429'),
  ('--max-in-flight', int, 256, 'requests answered at once; then 429'),
  ('--max-engines', int, 4, 'combinations of mode and exits kept compiled'),
  ('--max-body-bytes', int, 1 << 20, 'of a request; then 413'),
  ('--header-timeout', float, 10.0, 's for headers; then closed'),
  ('--body-timeout', float, 30.0, 's for a body; then 408'),
  ('--request-timeout', float, 600.0, 's for an answer; then 504'),
  ('--write-timeout', float, 60.0, 's for a client to read on; then closed'),
  ('--drain-timeout', float, 30.0, 's for answers under way at SIGTERM'),
  ('--ticks-per-step', int, 8, 'decode steps between looks at requests'),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'checkpoints',
    metavar='CKPT',
    nargs='*',
    help=(
      'an eejax checkpoint, a Hugging Face folder, or default; served under '
      'the name of its folder'
    ),
  )
  parser.add_argument(
    '--model',
    action='append',
    default=[],
    metavar='NAME=CKPT',
    help='a model under a name of your own; may be given several times',
  )
  group = parser.add_argument_group('server')
  group.add_argument(
    '--host', default='127.0.0.1', help='to listen at (default: 127.0.0.1)'
  )
  group.add_argument(
    '--port', type=int, default=8000, help='0 takes a free one (default: 8000)'
  )
  group.add_argument(
    '--api-key-file',
    metavar='FILE',
    help=(
      'keys that requests need, one a line; EEJAX_API_KEY in the environment '
      'is one more'
    ),
  )
  group.add_argument(
    '--log-requests',
    action='store_true',
    help='log method, route, status and time of each request, never its text',
  )
  group.add_argument(
    '--compile-only',
    action='store_true',
    help='compile all programs into the cache of programs, and end',
  )
  _add_limits(parser.add_argument_group('limits'))
  group = parser.add_argument_group(
    'exits', 'what is done where a request says nothing of exits'
  )
  policy_flags.add_mode_argument(group)
  policy_flags.add_drafting_arguments(group)
  policy_flags.add_policy_arguments(group)
  group.add_argument(
    '--also-mode',
    action='append',
    default=[],
    choices=policy_flags.MODES,
    help=(
      'a mode that requests may ask for, compiled at the start as well; others '
      'are compiled by the first request for them'
    ),
  )
  gin_policy.add_arguments(parser)
  _add_numbers(parser.add_argument_group('numbers'))


def _add_limits(group: argparse._ArgumentGroup) -> None:
  for flag, kind, default, words in _LIMITS:
    shown = "the model's context" if default is None else default
    group.add_argument(
      flag,
      type=kind,
      default=default,
      metavar='N' if kind is int else 'S',
      help=f'{words} (default: {shown})',
    )


def _add_numbers(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in (default: float32)',
  )
  for flag, what in (
    ('--weights', 'weights of the blocks'),
    ('--kv', 'caches'),
  ):
    group.add_argument(
      flag,
      choices=('int8',),
      help=f'keep the {what} in a byte a number, not in the dtype',
    )
  mesh_flag.add_argument(group)


def run(args: argparse.Namespace) -> dict[str, Any]:
  names = _names(args)
  limits = _limits(args)
  _check_packages()
  from eejax.serving.api_keys import read_keys
  from eejax.serving.server import listening_socket

  keys = read_keys(args.api_key_file)
  with contextlib.closing(listening_socket(args.host, args.port)) as listening:
    mesh = mesh_flag.devices(args)
    models = {n: _load(source, args, mesh) for n, source in names.items()}
    return _serve(args, models, limits, keys, listening, mesh)


def _serve(
  args: argparse.Namespace,
  models: dict[str, 'Model'],
  limits: 'ServerLimits',
  keys: 'ApiKeys',
  listening: socket.socket,
  mesh: 'Mesh | None',
) -> dict[str, Any]:
  """Serve models until the process is asked to stop."""
  from eejax.cli import output
  from eejax.serving.server import Server, make_service

  policies = {
    name: policy_flags.chosen_policy(args, model.config)
    for name, model in models.items()
  }
  service = make_service(
    models, policies=policies, limits=limits, numbers=_numbers(args, mesh)
  )
  host, port = listening.getsockname()[:2]
  address = f'http://{f"[{host}]" if ":" in host else host}:{port}'

  def ready() -> None:
    output.say(f'serving {", ".join(models)} at {address} (Ctrl+C stops)')
    if args.compile_only:
      server.stop()

  server = Server(
    service,
    keys=keys,
    compiled={
      name: _compiled(args, served) for name, served in service.models.items()
    },
    on_ready=ready,
  )
  output.say(f'compiling; {address}/health says when it is done')
  with _logs_shown(args):
    server.run(sockets=[listening])
  if not args.json:
    output.show(f'served {service.answered} requests')
  return {
    'address': address,
    'models': list(models),
    'requests': service.answered,
  }


def _names(args: argparse.Namespace) -> dict[str, str]:
  """Return where each model is, by its name."""
  names: dict[str, str] = {}
  pairs = [(pathlib.PurePath(c).name or c, c) for c in args.checkpoints]
  for entry in args.model:
    name, equals, source = entry.partition('=')
    if not (name and equals and source):
      raise ArgumentError(
        f'--model takes NAME=CKPT, as in small=default, not {entry!r}.'
      )
    pairs.append((name, source))
  for name, source in pairs:
    if name in names:
      raise ArgumentError(
        f'two models are called {name!r}; name them with --model NAME=CKPT.'
      )
    names[name] = source
  if not names:
    raise ArgumentError(
      'there is no model to serve; name a checkpoint, or default for the small '
      'model that eejax brings along.'
    )
  return names


def _limits(args: argparse.Namespace) -> 'ServerLimits':
  from eejax.serving.server_settings import ServerLimits

  values = {}
  for flag, _, _, _ in _LIMITS:
    name = flag.removeprefix('--').replace('-', '_')
    field = f'{name}_s' if name.endswith('timeout') else name
    values[field] = getattr(args, name)
  return ServerLimits(**values)


def _check_packages() -> None:
  try:
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
  except ImportError as error:
    raise ArgumentError(
      f"serving needs {error.name}; install it with pip install 'eejax[serve]'."
    ) from error


def _load(
  source: str, args: argparse.Namespace, mesh: 'Mesh | None'
) -> 'Model':
  from eejax.checkpoint.load import load
  from eejax.cli import output

  return load(source, dtype=args.dtype, mesh=mesh, progress=output.reporter())


def _numbers(args: argparse.Namespace, mesh: 'Mesh | None') -> Any:
  from eejax.ops.quant import Quantization
  from eejax.serving.served_model import Numbers

  return Numbers(
    dtype=args.dtype,
    weights=Quantization(args.weights or 'none'),
    kv=Quantization(args.kv or 'none'),
    mesh=mesh,
  )


def _compiled(
  args: argparse.Namespace, served: 'ServedModel'
) -> list['Policy']:
  """Return the policies whose programs are made at the start."""
  from eejax.decoding.policy.modes import Mode
  from eejax.serving.generation_request import ExitSettings

  asked = [ExitSettings(mode=Mode(mode)) for mode in args.also_mode]
  return [served.policy, *map(served.policy_of, asked)]


@contextlib.contextmanager
def _logs_shown(args: argparse.Namespace) -> Iterator[None]:
  """Show on stderr what the server logs."""
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
  requests = logging.getLogger('eejax.serving.requests')
  requests.setLevel(logging.INFO if args.log_requests else logging.WARNING)
  loggers = [logging.getLogger(name) for name in ('eejax.serving', 'uvicorn')]
  for logger in loggers:
    logger.addHandler(handler)
    # What other packages set up for all logs would show each line again.
    logger.propagate = False
  try:
    yield
  finally:
    for logger in loggers:
      logger.removeHandler(handler)
      logger.propagate = True
    requests.setLevel(logging.NOTSET)
