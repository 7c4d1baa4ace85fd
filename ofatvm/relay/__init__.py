"""What runs in the environment of TVM 0.19: lowering through Relay, its kernels, its tuner.

Nothing here is run in ofatvm's own process: `compiler.relay_env` calls these functions in processes
of that environment. TVM is imported in function bodies alone, so that functions can be named here.
"""
