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
"""Test texts of the server with the real client, against single runs."""

import asyncio

import pytest

import eejax
from eejax.decoding.policy.policy import Policy

PROMPT = 'alpha beta'


def single(model, prompt=PROMPT, **options):
  return eejax.generate(model, [prompt], **options).rows[0]


@pytest.mark.parametrize(
  'settings',
  [
    {'mode': 'full'},
    {'mode': 'early_exit', 'threshold': 0.3},
    {'mode': 'early_exit', 'threshold': [0.2, 'never']},
    {'mode': 'speculative', 'threshold': 0.2},
    {'mode': 'early_exit', 'criterion': 'max_prob', 'threshold': 0.5},
  ],
  ids=str,
)
def test_a_text_equals_a_single_run(client, model, settings):
  found = client.completions.create(
    model='tiny',
    prompt=PROMPT,
    max_tokens=12,
    temperature=0,
    extra_body={'eejax': settings},
  )
  options = dict(settings)
  thresholds = options.pop('threshold', None)
  if isinstance(thresholds, list):
    thresholds = ','.join(map(str, thresholds))
  expected = single(model, max_new_tokens=12, thresholds=thresholds, **options)
  (choice,) = found.choices
  assert choice.text == expected.text
  assert choice.finish_reason == 'length'
  assert choice.eejax['tokens'] == list(expected.tokens)
  if settings['mode'] != 'speculative':
    assert choice.eejax['exit_depths'] == list(expected.exit_depths)
    scores = choice.eejax['scores']
    assert scores == pytest.approx(list(expected.scores), abs=1e-5)
  assert found.eejax['mode'] == settings['mode']
  usage = found.usage
  num_prompt = len(expected.prompt_tokens)
  assert (usage.prompt_tokens, usage.completion_tokens) == (num_prompt, 12)
  assert usage.total_tokens == num_prompt + 12


def test_max_depth_ends_the_model_at_an_exit(client, model):
  found = client.completions.create(
    model='tiny',
    prompt=PROMPT,
    max_tokens=6,
    temperature=0,
    extra_body={'eejax': {'max_depth': 3}},
  )
  expected = single(
    model, max_new_tokens=6, mode='early_exit', thresholds='never,0'
  )
  assert found.choices[0].eejax['exit_depths'] == [3] * 6
  assert found.choices[0].eejax['tokens'] == list(expected.tokens)


def test_a_policy_of_the_request(client, model):
  policy = Policy(
    eejax.Mode.EARLY_EXIT, 'max_prob', (0.2, 0.4), window=4, minimum_depth=2
  )
  found = client.completions.create(
    model='tiny',
    prompt=PROMPT,
    max_tokens=9,
    temperature=0,
    extra_body={'eejax': {'policy': policy.to_json()}},
  )
  expected = single(model, max_new_tokens=9, policy=policy)
  assert found.choices[0].eejax['tokens'] == list(expected.tokens)
  assert found.choices[0].eejax['exit_depths'] == list(expected.exit_depths)


def test_sampled_texts_follow_their_seeds(client, model):
  options = {'model': 'tiny', 'prompt': PROMPT, 'max_tokens': 8}
  found = client.completions.create(
    **options, temperature=1.3, seed=7, n=3, extra_body={'top_k': 40}
  )
  assert [choice.index for choice in found.choices] == [0, 1, 2]
  for choice in found.choices:
    expected = single(
      model,
      max_new_tokens=8,
      temperature=1.3,
      top_k=40,
      seed=7 + choice.index,
    )
    assert choice.text == expected.text
  # Without a seed, each request draws one.
  texts = {
    client.completions.create(**options, temperature=1.3).choices[0].text
    for _ in range(3)
  }
  assert len(texts) > 1


def test_every_kind_of_prompt(client, model):
  ids = model.tokenizer.encode(PROMPT, add_bos=True)
  others = [5, 9]
  expected = [
    single(model, prompt, max_new_tokens=5).text for prompt in (ids, others)
  ]
  for prompt, texts in [
    (PROMPT, expected[:1]),
    (ids, expected[:1]),
    ([PROMPT, PROMPT], [expected[0]] * 2),
    ([ids, others], expected),
  ]:
    found = client.completions.create(
      model='tiny', prompt=prompt, max_tokens=5, temperature=0
    )
    assert [choice.text for choice in found.choices] == texts
  several = client.completions.create(
    model='tiny', prompt=[ids, others], max_tokens=5, temperature=0, n=2
  )
  assert [c.text for c in several.choices] == [
    expected[0],
    expected[0],
    expected[1],
    expected[1],
  ]
  assert several.usage.prompt_tokens == len(ids) + len(others)


def test_a_stop_string_ends_a_text(client, model):
  whole = single(model, max_new_tokens=20).text
  stop = whole[6:8]
  options = {'model': 'tiny', 'prompt': PROMPT, 'temperature': 0}
  found = client.completions.create(**options, max_tokens=20, stop=[stop])
  assert found.choices[0].text == whole[: whole.index(stop)]
  assert found.choices[0].finish_reason == 'stop'
  assert found.choices[0].stop_reason == stop
  streamed = client.completions.create(
    **options, max_tokens=20, stop=['never', stop], stream=True
  )
  chunks = [chunk.choices[0] for chunk in streamed]
  assert ''.join(c.text for c in chunks) == found.choices[0].text
  assert [c.finish_reason for c in chunks][-1] == 'stop'
  assert [c.stop_reason for c in chunks] == [None] * (len(chunks) - 1) + [stop]


def test_a_stream_says_what_a_whole_answer_says(client, running):
  options = {
    'model': 'tiny',
    'prompt': PROMPT,
    'max_tokens': 11,
    'temperature': 0,
    'logprobs': 2,
    'extra_body': {'eejax': {'mode': 'early_exit', 'threshold': 0.3}},
  }
  whole = client.completions.create(**options)
  stream = client.completions.create(
    **options, stream=True, stream_options={'include_usage': True}
  )
  *chunks, last = list(stream)
  choices = [chunk.choices[0] for chunk in chunks]
  # An event for each token, whatever comes of one step.
  assert [len(c.eejax['tokens']) for c in choices] == [1] * 11
  assert ''.join(c.text for c in choices) == whole.choices[0].text
  for name in ('tokens', 'token_logprobs', 'top_logprobs', 'text_offset'):
    joined = [v for c in choices for v in getattr(c.logprobs, name)]
    assert joined == getattr(whole.choices[0].logprobs, name)
  for name in ('tokens', 'pieces', 'exit_depths', 'scores'):
    joined = [value for c in choices for value in c.eejax[name]]
    assert joined == whole.choices[0].eejax[name]
    assert all(len(c.eejax[name]) == 1 for c in choices)
  reasons = [c.finish_reason for c in choices]
  assert reasons == [None] * (len(reasons) - 1) + ['length']
  assert last.choices == [] and last.usage == whole.usage
  assert {chunk.id for chunk in [*chunks, last]} == {last.id}
  assert all(chunk.usage is None for chunk in chunks)
  with running.http() as http:
    text = http.post(
      '/v1/completions',
      json={'model': 'tiny', 'prompt': PROMPT, 'stream': True},
    ).text
  assert text.endswith('data: [DONE]\n\n')
  assert '"usage"' not in text


def test_streams_of_one_request_interleave_by_index(client, model):
  stream = client.completions.create(
    model='tiny',
    prompt=PROMPT,
    max_tokens=10,
    temperature=1,
    seed=3,
    n=3,
    stream=True,
  )
  texts, ends = ['', '', ''], []
  for chunk in stream:
    (choice,) = chunk.choices
    texts[choice.index] += choice.text
    ends += [choice.index] if choice.finish_reason else []
  assert sorted(ends) == [0, 1, 2]
  for index, text in enumerate(texts):
    expected = single(model, max_new_tokens=10, temperature=1.0, seed=3 + index)
    assert text == expected.text


def test_prompt_logprobs_are_those_of_an_echo(client):
  ask = lambda **fields: client.completions.create(
    model='tiny', prompt=PROMPT, max_tokens=1, temperature=0, **fields
  ).choices[0]
  told = ask(extra_body={'prompt_logprobs': 2, 'return_token_ids': True})
  echoed = ask(echo=True, logprobs=1).logprobs
  ids, found = told.prompt_token_ids, told.prompt_logprobs
  assert found[0] is None and len(found) == len(ids)
  for token, place, logprob in zip(
    ids[1:], found[1:], echoed.token_logprobs[1:], strict=False
  ):
    assert place[str(token)]['logprob'] == pytest.approx(logprob, abs=1e-5)
    ranks = {entry['rank']: entry['logprob'] for entry in place.values()}
    assert {1, 2} <= set(ranks) and len(place) <= 3
    assert list(ranks[r] for r in sorted(ranks)) == sorted(
      ranks.values(), reverse=True
    )
  assert told.logprobs is None


def test_an_echo_with_logprobs_scores_the_prompt(client, model):
  found = client.completions.create(
    model='tiny',
    prompt=PROMPT,
    max_tokens=3,
    temperature=0,
    echo=True,
    logprobs=2,
  )
  expected = single(model, max_new_tokens=3)
  (choice,) = found.choices
  assert choice.text == PROMPT + expected.text
  logprobs = choice.logprobs
  num_prompt = len(expected.prompt_tokens)
  assert len(logprobs.tokens) == num_prompt + 3
  assert logprobs.token_logprobs[0] is None
  assert logprobs.top_logprobs[0] is None
  # What was generated greedily scores the same as a prompt.
  again = client.completions.create(
    model='tiny',
    prompt=[*expected.prompt_tokens, *expected.tokens],
    max_tokens=0,
    echo=True,
    logprobs=1,
  )
  scores = again.choices[0].logprobs
  assert scores.token_logprobs[1:] == pytest.approx(
    logprobs.token_logprobs[1:], abs=1e-4
  )
  assert logprobs.token_logprobs[num_prompt:] == pytest.approx(
    list(expected.logprobs), abs=1e-4
  )
  for logprob, top in zip(
    scores.token_logprobs[num_prompt:],
    scores.top_logprobs[num_prompt:],
    strict=True,
  ):
    assert logprob == max(top.values())
  assert again.usage.completion_tokens == 0
  offsets = logprobs.text_offset
  assert offsets == sorted(offsets) and offsets[0] == 0


def test_many_at_once_do_not_influence_one_another(running, model):
  prompts = [[3 + i, 20 + i, 7] for i in range(12)]
  modes = ['full', 'early_exit', 'speculative']

  async def ask():
    async with running.async_client() as client:
      return await asyncio.gather(
        *(
          client.completions.create(
            model='tiny',
            prompt=prompt,
            max_tokens=9,
            temperature=0,
            extra_body={'eejax': {'mode': modes[i % 3]}},
          )
          for i, prompt in enumerate(prompts)
        )
      )

  for i, found in enumerate(asyncio.run(ask())):
    expected = single(model, prompts[i], mode=modes[i % 3], max_new_tokens=9)
    assert found.choices[0].eejax['tokens'] == list(expected.tokens)


def test_token_ids_are_returned_on_request(client, model):
  expected = single(model, max_new_tokens=4)
  options = {
    'model': 'tiny',
    'prompt': PROMPT,
    'max_tokens': 4,
    'temperature': 0,
    'extra_body': {'return_token_ids': True},
  }
  (choice,) = client.completions.create(**options).choices
  assert choice.prompt_token_ids == list(expected.prompt_tokens)
  assert choice.token_ids == list(expected.tokens)
  chunks = list(client.completions.create(**options, stream=True))
  first = chunks[0].choices[0]
  assert first.prompt_token_ids == list(expected.prompt_tokens)
  joined = [i for chunk in chunks for i in chunk.choices[0].token_ids]
  assert joined == list(expected.tokens)


def test_unknown_fields_are_ignored_and_told(client):
  found = client.completions.create(
    model='tiny', prompt=PROMPT, max_tokens=1, extra_body={'mirostat': 2}
  )
  assert found.eejax['ignored_fields'] == ['mirostat']
