"""What the simulated device is made of: qemu counts, LLVM's CPU models and caches give cycles."""
