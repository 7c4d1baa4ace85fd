"""Imported once by the process that sessions are forked from: TVM's runtime, nothing more."""

from ofatvm.device.rpc_board import prepare_runtime

prepare_runtime(1)

import tvm.rpc  # noqa: E402, F401  (after the environment is prepared; loading is the purpose)

import ofatvm.device.visit  # noqa: E402, F401
