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
"""Errors in the form of the OpenAI protocol, and what causes each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from eejax.errors import EejaxError

INVALID_REQUEST = 'invalid_request_error'


# Python writes the traceback into it, so it is not frozen.
@dataclasses.dataclass(eq=False)
class ApiError(Exception):
  """Report what stops a request, as its client is told.

  Attributes:
    message: one sentence that says what to do.
    status: of HTTP.
    kind: the field `type` of the answer.
    param: the field of the request that is wrong, or None.
    code: a name that programs can compare, or None.
    headers: of the answer, besides its usual ones.
  """

  message: str
  status: int = 400
  kind: str = INVALID_REQUEST
  param: str | None = None
  code: str | None = None
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def body(self) -> dict[str, Any]:
    """Return the object that the client gets."""
    return {
      'error': {
        'message': self.message,
        'type': self.kind,
        'param': self.param,
        'code': self.code,
      }
    }

  def __str__(self) -> str:
    return self.message


def wrong_field(
  param: str, message: str, *, code: str | None = None
) -> ApiError:
  """Return the error of a field that cannot be used as given."""
  return ApiError(message, param=param, code=code)


def of_argument(error: EejaxError, *, param: str | None = None) -> ApiError:
  """Return the error of what eejax refuses, in its own words."""
  text = str(error)
  code = 'context_length_exceeded' if 'context of the model' in text else None
  return ApiError(text, param=param, code=code)


def missing_key() -> ApiError:
  """Return the error of a request without an API key."""
  return ApiError(
    'You did not provide an API key; send it as `Authorization: Bearer KEY`.',
    status=401,
    headers={'WWW-Authenticate': 'Bearer'},
  )


def wrong_key() -> ApiError:
  """Return the error of an API key that is not one of the server's."""
  return ApiError(
    'Incorrect API key provided.',
    status=401,
    code='invalid_api_key',
    headers={'WWW-Authenticate': 'Bearer'},
  )


def unknown_model(name: str) -> ApiError:
  """Return the error of a model that is not served."""
  return ApiError(
    f'The model `{name}` does not exist; GET /v1/models lists those that do.',
    status=404,
    param='model',
    code='model_not_found',
  )


def too_large(limit: int) -> ApiError:
  """Return the error of a body beyond `limit` bytes."""
  return ApiError(
    f'the body is larger than {limit} bytes, which this server takes at most.',
    status=413,
    code='request_too_large',
    headers={'Connection': 'close'},
  )


def too_slow(seconds: float) -> ApiError:
  """Return the error of a body that did not come in time."""
  return ApiError(
    f'the body did not arrive within {seconds:g} seconds.',
    status=408,
    code='request_timeout',
    headers={'Connection': 'close'},
  )


def too_many_requests(what: str, *, retry_after: int = 1) -> ApiError:
  """Return the error of a request that there is no room for."""
  return ApiError(
    f'{what}; try again in {retry_after} s.',
    status=429,
    kind='rate_limit_error',
    code='rate_limit_exceeded',
    headers={'Retry-After': str(retry_after)},
  )


def unavailable(why: str, *, retry_after: int = 5) -> ApiError:
  """Return the error of a server that takes no requests now."""
  return ApiError(
    why,
    status=503,
    kind='server_error',
    code='service_unavailable',
    headers={'Retry-After': str(retry_after)},
  )


def not_made() -> ApiError:
  """Return the error of exits whose programs could not be compiled."""
  return ApiError(
    'the programs for these exits could not be made; ask for another mode or '
    "policy (the server's log has the kind of error).",
    status=500,
    kind='server_error',
    param='eejax',
    code='engine_not_made',
  )


def timed_out(seconds: float) -> ApiError:
  """Return the error of an answer that took too long."""
  return ApiError(
    f'the answer was not complete within {seconds:g} seconds; ask for fewer '
    'tokens.',
    status=504,
    kind='server_error',
    code='timeout',
  )


def not_finite() -> ApiError:
  """Return the error of a text whose logits are no numbers any more."""
  return ApiError(
    'the logits of the model are no finite numbers here; shorten the prompt, '
    'or serve it with dtype float32.',
    status=500,
    kind='server_error',
    code='non_finite_logits',
  )


def internal() -> ApiError:
  """Return the error of what nobody foresaw."""
  return ApiError(
    'the server failed on this request; its log says where.',
    status=500,
    kind='server_error',
    code='internal_error',
  )
