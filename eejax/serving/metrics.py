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
"""Metrics of a server, for Prometheus.

Names are vLLM's with the prefix `eejax:` where they mean the same. What each
means is its help text, which `/metrics` shows.
"""

from collections.abc import Callable, Iterable

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from eejax.config import EarlyExitConfig
from eejax.serving.scheduler import Scheduler
from eejax.serving.ticket import TextUpdate, Ticket

_SECONDS = (
  *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
  *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
_LABELS = ('model_name',)

_COUNTERS = {
  'prompt_tokens': 'Tokens of prompts of texts that ended.',
  'prompt_tokens_cached': (
    'Those of prompt_tokens that were not run, for their keys and values were '
    'there from an earlier text.'
  ),
  'generation_tokens': 'Tokens generated.',
  'request_aborted': 'Requests that were cancelled, as by a client that left.',
  'blocks_run': (
    'Block-passes that were run: one block for one token of one text. Prefill '
    'is not counted.'
  ),
  'blocks_full': 'Block-passes that full depth would have run instead.',
  'blocks_saved': (
    'blocks_full less blocks_run of each text, where that is above 0: what '
    'early exits left out, and drafts that were verified did not cost.'
  ),
}
_TIMES = {
  'time_to_first_token_seconds': "From a text's submission to its first token.",
  'inter_token_latency_seconds': (
    'Time between two deliveries of a text, over the tokens of the second one.'
  ),
  'e2e_request_latency_seconds': "From a text's submission to its end.",
  'request_queue_time_seconds': (
    "From a text's submission to the start of the step that gave it a slot."
  ),
  'request_prefill_time_seconds': (
    'From the start of the step that gave a text a slot to its first token.'
  ),
  'request_decode_time_seconds': "From a text's first token to its last.",
}


class Metrics:
  """All metrics of one server; a registry of its own.

  The event loop's thread alone calls it.
  """

  def __init__(self):
    self.registry = prometheus.CollectorRegistry()
    self._counters = {
      name: prometheus.Counter(
        f'eejax:{name}', words, _LABELS, registry=self.registry
      )
      for name, words in _COUNTERS.items()
    }
    self._times = {
      name: prometheus.Histogram(
        f'eejax:{name}',
        words,
        _LABELS,
        buckets=_SECONDS,
        registry=self.registry,
      )
      for name, words in _TIMES.items()
    }
    self._succeeded = prometheus.Counter(
      'eejax:request_success',
      'Texts that ended, by why: an end token, a stop string, their length.',
      (*_LABELS, 'finished_reason'),
      registry=self.registry,
    )
    self._refused = prometheus.Counter(
      'eejax:request_refused',
      'Requests that were answered with an error, by HTTP status.',
      ('status',),
      registry=self.registry,
    )
    self._drafts = {
      name: prometheus.Counter(
        f'eejax:spec_decode_num_{name}',
        words,
        (*_LABELS, 'drafter'),
        registry=self.registry,
      )
      for name, words in {
        'draft_tokens': 'Drafts that the whole model verified, by drafter.',
        'accepted_tokens': (
          'Drafts that were kept: the whole model chose the same token there '
          'and at every earlier place of its window. Over draft_tokens it is '
          'the acceptance rate of the drafter.'
        ),
      }.items()
    }
    self._draft_windows = prometheus.Counter(
      'eejax:spec_decode_num_drafts',
      'Verifications of drafts: windows that held one draft or more.',
      _LABELS,
      registry=self.registry,
    )
    self._accepted_at = prometheus.Counter(
      'eejax:spec_decode_num_accepted_tokens_per_pos',
      'Windows that kept their draft at this position; 0 is the first draft. '
      'Over num_drafts it is the chance that a window keeps so many.',
      (*_LABELS, 'position'),
      registry=self.registry,
    )
    self._depths: dict[str, prometheus.Histogram] = {}

  def refused(self, status: int) -> None:
    """Count an answer that is an error."""
    self._refused.labels(str(status)).inc()

  def aborted(self, model: str) -> None:
    """Count a request that was cancelled."""
    self._counters['request_aborted'].labels(model).inc()

  def watcher(self, model: str, config: EarlyExitConfig) -> 'ModelMetrics':
    """Return what hears of the texts of one model."""
    full = config.model.num_layers
    buckets = sorted({*config.exit_depths, full})
    # Models have exits of their own, so each has a metric of its own shape.
    depths = prometheus.Histogram(
      'eejax:exit_depth',
      'Blocks that a token went through before it was emitted.',
      _LABELS,
      buckets=buckets,
      registry=None,
    )
    self._depths[model] = depths
    return ModelMetrics(self, model, depths)

  def watch_engines(
    self, engines: Callable[[], Iterable[tuple[str, str, Scheduler]]]
  ) -> None:
    """Show how full engines are.

    Args:
      engines: returns each with the names of its model and its mode.
    """
    self.registry.register(_EngineCollector(engines))

  def text(self) -> bytes:
    """Return what `/metrics` answers."""
    parts = [prometheus.generate_latest(self.registry)]
    return b''.join(parts) + _histograms(self._depths.values())

  # MARK: For `ModelMetrics`

  def count(self, name: str, model: str, amount: float) -> None:
    """Add to a counter."""
    self._counters[name].labels(model).inc(amount)

  def time(self, name: str, model: str, seconds: float) -> None:
    """Add to a histogram of times."""
    self._times[name].labels(model).observe(seconds)

  def ended(self, model: str, update: TextUpdate) -> None:
    """Count a text that ended."""
    result = update.result
    if result is None:
      return
    reason = result.finish_reason.value
    self._succeeded.labels(model, reason).inc()
    work = result.accounting
    drafters = {
      'exit': (
        work.drafted - work.looked_up,
        work.accepted - work.looked_up_accepted,
      ),
      'prompt_lookup': (work.looked_up, work.looked_up_accepted),
    }
    for drafter, (drafted, accepted) in drafters.items():
      self._drafts['draft_tokens'].labels(model, drafter).inc(drafted)
      self._drafts['accepted_tokens'].labels(model, drafter).inc(accepted)
    self._draft_windows.labels(model).inc(work.draft_windows)
    for position, kept in enumerate(work.accepted_at):
      self._accepted_at.labels(model, str(position)).inc(kept)


class ModelMetrics:
  """Hears of the texts of one model; a `Watcher`."""

  def __init__(
    self, metrics: Metrics, model: str, depths: prometheus.Histogram
  ):
    self._metrics, self._model = metrics, model
    self._depths = depths.labels(model)

  def grew(self, ticket: Ticket, update: TextUpdate, *, seconds: float) -> None:
    """Hear that a text grew, so long after it did before."""
    count = len(update.tokens.tokens)
    if not count:
      return
    metrics, model = self._metrics, self._model
    metrics.count('generation_tokens', model, count)
    for depth in update.tokens.exit_depths:
      self._depths.observe(depth)
    times = ticket.times
    if ticket.num_tokens > count:
      metrics.time('inter_token_latency_seconds', model, seconds / count)
      return
    started, first = times.started, times.first
    metrics.time('time_to_first_token_seconds', model, seconds)
    if started is not None and first is not None:
      metrics.time(
        'request_queue_time_seconds', model, started - times.submitted
      )
      metrics.time('request_prefill_time_seconds', model, first - started)

  def ended(self, ticket: Ticket, update: TextUpdate) -> None:
    """Hear that a text ended."""
    result, times = update.result, ticket.times
    if result is None:
      return
    metrics, model, work = self._metrics, self._model, result.accounting
    metrics.count('prompt_tokens', model, len(result.prompt_tokens))
    metrics.count('prompt_tokens_cached', model, result.reused_tokens)
    metrics.count('blocks_run', model, work.blocks_run)
    metrics.count('blocks_full', model, work.blocks_full)
    saved = max(0, work.blocks_full - work.blocks_run)
    metrics.count('blocks_saved', model, saved)
    metrics.ended(model, update)
    if times.first is not None and times.last is not None:
      metrics.time(
        'e2e_request_latency_seconds', model, times.last - times.submitted
      )
      metrics.time(
        'request_decode_time_seconds', model, times.last - times.first
      )


class _EngineCollector(Collector):
  """Asks engines how full they are whenever metrics are read."""

  def __init__(
    self, engines: Callable[[], Iterable[tuple[str, str, Scheduler]]]
  ):
    self._engines = engines

  def collect(self) -> Iterable[GaugeMetricFamily]:
    """Yield the gauges."""
    gauges = {
      'num_requests_running': 'Texts that have a slot.',
      'num_requests_waiting': 'Texts that wait for a slot.',
      'kv_cache_usage_perc': (
        'Share of the positions of all slots that texts have filled, 1 is all.'
      ),
    }
    read = {
      'num_requests_running': lambda s: s.num_running,
      'num_requests_waiting': lambda s: s.num_waiting,
      'kv_cache_usage_perc': lambda s: s.cache_usage,
    }
    engines = list(self._engines())
    for name, words in gauges.items():
      family = GaugeMetricFamily(
        f'eejax:{name}', words, labels=('model_name', 'engine')
      )
      for model, mode, scheduler in engines:
        family.add_metric((model, mode), read[name](scheduler))
      yield family


def _histograms(histograms: Iterable[prometheus.Histogram]) -> bytes:
  """Return histograms of one name and several shapes as one text."""
  lines: list[bytes] = []
  for number, histogram in enumerate(histograms):
    registry = prometheus.CollectorRegistry()
    registry.register(histogram)
    text = prometheus.generate_latest(registry).splitlines(keepends=True)
    lines += [t for t in text if number == 0 or not t.startswith(b'#')]
  return b''.join(lines)
