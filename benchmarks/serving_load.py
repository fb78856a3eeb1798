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
"""Clients that load a server: streams over plain sockets, and mixed requests.

A stream is read with as little work as may be, for the machine that is
measured is the one that the clients run on.
"""

import asyncio
import collections
import dataclasses
import json
import random
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Streamed:
  """One stream as its client saw it.

  Attributes:
    status: of HTTP; None where the connection ended before it was known.
    first_s: from the request to the first tokens.
    total_s: from the request to the end.
    tokens: ids of all tokens.
    is_complete: whether the stream ended as the protocol has it.
  """

  status: int | None
  first_s: float | None
  total_s: float
  tokens: tuple[int, ...]
  is_complete: bool


async def stream(
  url: str, body: Mapping[str, Any], *, leave_after: int | None = None
) -> Streamed:
  """Send one request for a stream and read it.

  Args:
    url: of the server.
    body: of the request, without `stream`.
    leave_after: chunks after which the client closes the connection.
  """
  began = time.perf_counter()
  reader, writer = await _send(url, json.dumps({**body, 'stream': True}))
  status, first, tokens = None, None, []
  is_complete = False
  try:
    status = await _status(reader)
    chunks = 0
    async for line in reader:
      if not line.startswith(b'data: '):
        continue
      if line.startswith(b'data: [DONE]'):
        is_complete = True
        break
      chunk = json.loads(line[6:])
      if 'error' in chunk:
        break
      tokens += [t for c in chunk['choices'] for t in c['eejax']['tokens']]
      first = first or time.perf_counter() - began
      chunks += 1
      if leave_after is not None and chunks >= leave_after:
        break
  finally:
    writer.close()
  total = time.perf_counter() - began
  return Streamed(status, first, total, tuple(tokens), is_complete)


async def post(
  url: str, content: str | bytes, *, timeout_s: float | None = None
) -> tuple[int | None, Any]:
  """Send a body; return the status and the JSON object, None if it left.

  Args:
    url: of the server.
    content: the body.
    timeout_s: after which the client closes the connection.
  """
  reader, writer = await _send(url, content)
  try:
    async with asyncio.timeout(timeout_s):
      status = await _status(reader)
      length = await _content_length(reader)
      return status, json.loads(await reader.readexactly(length))
  except TimeoutError:
    return None, None
  finally:
    writer.close()


async def _send(
  url: str, content: str | bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
  parts = urllib.parse.urlsplit(url)
  reader, writer = await asyncio.open_connection(
    parts.hostname, parts.port, limit=1 << 24
  )
  data = content.encode() if isinstance(content, str) else content
  head = (
    f'POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n'
    'Content-Type: application/json\r\nConnection: close\r\n'
    f'Content-Length: {len(data)}\r\n\r\n'
  )
  writer.write(head.encode() + data)
  await writer.drain()
  return reader, writer


async def _status(reader: asyncio.StreamReader) -> int | None:
  words = (await reader.readline()).split()
  return int(words[1]) if len(words) > 1 else None


async def _content_length(reader: asyncio.StreamReader) -> int:
  length = 0
  while line := (await reader.readline()).strip():
    name, _, value = line.partition(b':')
    if name.lower() == b'content-length':
      length = int(value)
  return length


# MARK: Mixed requests


@dataclasses.dataclass(frozen=True)
class Case:
  """A request whose text is known.

  Attributes:
    body: of the request.
    tokens: what a single run generates.
  """

  body: Mapping[str, Any]
  tokens: tuple[int, ...]


@dataclasses.dataclass
class SoakCounts:
  """What became of many mixed requests.

  Attributes:
    kinds: how many of each kind there were.
    lost: requests that were not answered as they should be.
    wrong: texts that are not those of single runs.
    examples: what the first few of them got.
  """

  kinds: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  lost: int = 0
  wrong: int = 0
  examples: list[str] = dataclasses.field(default_factory=list)

  def lose(self, kind: str, found: Any) -> None:
    """Count a request that was not answered as it should be."""
    self.lost += 1
    if len(self.examples) < 5:
      self.examples.append(f'{kind}: {found!r:.200}')


async def soak(
  url: str,
  cases: Sequence[Case],
  *,
  count: int,
  at_once: int,
  seed: int = 0,
  too_long: int,
) -> SoakCounts:
  """Send mixed requests, so many at once, and check every answer.

  Whole answers, streams, clients that leave, bodies that are no JSON, prompts
  beyond the context, wrong fields and clients that do not wait. An answer of
  429 is asked for again, as its client would.

  Args:
    url: of the server.
    cases: requests that have one right answer.
    count: how many requests.
    at_once: how many at the same time.
    seed: of their order.
    too_long: tokens that no context has room for.
  """
  counts = SoakCounts()
  draw = random.Random(seed)
  kinds = {
    'whole': 4,
    'stream': 4,
    'leave': 2,
    'no_json': 1,
    'huge': 1,
    'wrong_field': 1,
    'impatient': 1,
  }
  order = draw.choices(list(kinds), list(kinds.values()), k=count)
  work = [(kind, draw.choice(cases), draw.random()) for kind in order]
  work.reverse()

  async def client() -> None:
    while work:
      kind, case, chance = work.pop()
      counts.kinds[kind] += 1
      try:
        await _one(url, kind, case, chance, counts, too_long=too_long)
      # Whatever it is, the others still count.
      except Exception as error:
        counts.lose(kind, error)

  await asyncio.gather(*(client() for _ in range(at_once)))
  return counts


async def _one(
  url: str,
  kind: str,
  case: Case,
  chance: float,
  counts: SoakCounts,
  *,
  too_long: int,
) -> None:
  """Send one request of a kind and count what is wrong with its answer."""
  if kind == 'stream':
    found = await _until_room(lambda: stream(url, case.body))
    if found.status != 200 or not found.is_complete:
      counts.lose(kind, found)
    elif found.tokens != case.tokens:
      counts.wrong += 1
  elif kind == 'leave':
    await stream(url, case.body, leave_after=int(1 + 2 * chance))
  elif kind == 'impatient':
    await post(url, json.dumps(case.body), timeout_s=0.05 * chance)
  elif kind == 'whole':
    found = await _until_room(lambda: post(url, json.dumps(case.body)))
    if found[0] != 200:
      counts.lose(kind, found)
    elif tuple(found[1]['choices'][0]['eejax']['tokens']) != case.tokens:
      counts.wrong += 1
  else:
    bodies = {
      'no_json': json.dumps(case.body)[:-1],
      'huge': json.dumps({**case.body, 'prompt': [3] * too_long}),
      'wrong_field': json.dumps({**case.body, 'temperature': -1}),
    }
    status, answer = await post(url, bodies[kind])
    if status != 400 or 'error' not in answer:
      counts.lose(kind, (status, answer))


async def _until_room(send: Any) -> Any:
  """Return the answer of a request, which is sent again while it is 429."""
  while True:
    found = await send()
    status = found.status if isinstance(found, Streamed) else found[0]
    if status != 429:
      return found
    await asyncio.sleep(0.2)
