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
"""Plans as rows of a table, as words and as an object for JSON."""

from collections.abc import Iterable
from typing import Any

from eejax.planner.choose import LayoutPlan, Layouts, PlanRequest, mesh_words
from eejax.planner.compiled import CompiledLayout
from eejax.planner.roofline import roofline

GIB = 2**30


def row(plan: LayoutPlan) -> dict[str, Any]:
  """Return a plan as a row of a table for people."""
  a, t = plan.arrangement, plan.time
  cells = {
    'mesh': mesh_words(a.mesh),
    'schedule': schedule_words(plan),
    'microbatches': a.microbatches,
    'recompute': a.rematerialization.value,
    'step s': t.total,
    'bubble %': 100 * t.bubble_share,
    'messages %': 100 * t.messages / t.total,
    'tokens/s': plan.tokens_per_second,
    'GiB': plan.memory.total / GIB,
    'device h/G tokens': plan.device_hours_per_billion,
  }
  if plan.cost_per_billion is not None:
    cells['cost/G tokens'] = plan.cost_per_billion
  return cells


def memory_rows(plans: Iterable[LayoutPlan]) -> list[dict[str, Any]]:
  """Return what each plan needs of a device, part by part, in GiB."""
  return [
    {
      'mesh': mesh_words(p.arrangement.mesh),
      **{name: size / GIB for name, size in p.memory.parts().items()},
      'total': p.memory.total / GIB,
    }
    for p in plans
  ]


def compiled_row(plan: LayoutPlan, found: CompiledLayout) -> dict[str, Any]:
  """Return the cells of a layout that was compiled, sizes in GiB.

  Parameters that a step does not read are no part of a compiled program; they
  are held all the same, and added.
  """
  if found.memory is None:
    return {
      'mesh': mesh_words(plan.arrangement.mesh),
      'held': None,
      'temporary': None,
      'total': None,
      'predicted': plan.memory.total / GIB,
      'predicted / compiled': None,
      'fits': False,
      'compilation s': found.compile_s,
    }
  needs = found.memory.peak + plan.memory.idle
  return {
    'mesh': mesh_words(plan.arrangement.mesh),
    'held': (found.memory.arguments + plan.memory.idle) / GIB,
    'temporary': found.memory.temporary / GIB,
    'total': needs / GIB,
    'predicted': plan.memory.total / GIB,
    'predicted / compiled': plan.memory.total / needs,
    'fits': needs <= plan.room,
    'compilation s': found.compile_s,
  }


def roofline_row(plan: LayoutPlan, request: PlanRequest) -> dict[str, Any]:
  """Return what a device computes, reads and sends in a step, and how long.

  Seconds are at the peaks that the maker states; the forecast assumes a share
  of the first, and adds what stages wait.
  """
  found = roofline(request.workload, plan.arrangement, request.machine)
  return {
    'mesh': mesh_words(plan.arrangement.mesh),
    'TFLOP': found.flops / 1e12,
    'weights read, GB': found.read_bytes / 1e9,
    'sent, GB': found.sent_bytes / 1e9,
    'compute s': found.compute_s,
    'memory s': found.memory_s,
    'links s': found.links_s,
    'bound by': found.bound,
    'forecast s': plan.time.total,
  }


def schedule_words(plan: LayoutPlan) -> str:
  """Return the schedule of a plan, a dash where there are no stages."""
  a = plan.arrangement
  if not a.is_pipeline:
    return '-'
  return a.schedule.value + (f' x{a.rounds}' if a.rounds > 1 else '')


def why_too_large(plan: LayoutPlan) -> str:
  """Return what a plan that does not fit needs, its largest parts first."""
  parts = sorted(plan.memory.parts().items(), key=lambda item: -item[1])
  largest = ', '.join(f'{name} {size / GIB:.3g}' for name, size in parts[:3])
  return (
    f'needs {plan.memory.total / GIB:.3g} GiB of {plan.room / GIB:.3g}: '
    f'{largest}'
  )


def plan_values(plan: LayoutPlan) -> dict[str, Any]:
  """Return a plan as an object."""
  a, t = plan.arrangement, plan.time
  return {
    'mesh': {k: v for k, v in a.mesh.sizes().items()},
    'microbatches': a.microbatches,
    'rematerialization': a.rematerialization.value,
    'schedule': a.schedule.value if a.is_pipeline else None,
    'rounds': a.rounds,
    'ticks': t.ticks,
    'step_s': t.total,
    'work_s': t.work,
    'bubble_s': t.bubble,
    'messages_s': t.messages,
    'update_s': t.update,
    'bubble_share': t.bubble_share,
    'tokens_per_s': plan.tokens_per_second,
    'memory_bytes': plan.memory.total,
    'memory_parts': plan.memory.parts(),
    'fits': plan.fits,
    'device_hours_per_billion_tokens': plan.device_hours_per_billion,
    'cost_per_billion_tokens': plan.cost_per_billion,
  }


def layout_values(layouts: Layouts, request: PlanRequest, *, best: int) -> dict:
  """Return the request and its layouts as an object.

  Args:
    layouts: of the workload over the devices.
    request: what was asked.
    best: how many plans that fit to list, and how many that do not.
  """
  workload, machine = request.workload, request.machine
  return {
    'devices': request.devices,
    'hardware': machine.hardware.name,
    'regime': workload.learns.value,
    'batch': workload.rows,
    'sequence_length': workload.length,
    'dtype': workload.dtype,
    'backbone': workload.backbone.value,
    'assumed': {
      'efficiency': machine.efficiency,
      'network': machine.network,
      'usable_memory': request.usable,
    },
    'room_bytes': request.room,
    'plans': [plan_values(p) for p in layouts.fitting[:best]],
    'too_large': [
      {**plan_values(p), 'why': why_too_large(p)}
      for p in layouts.too_large[:best]
    ],
    'refused': [
      {'why': r.why, 'meshes': list(r.meshes)} for r in layouts.refused
    ],
  }
