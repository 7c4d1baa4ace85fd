// Stand-in for a header of TVM that its wheels lack: without CUDA, a named range is nothing.
#ifndef OFATVM_TVM_SUPPORT_CUDA_NVTX_H_
#define OFATVM_TVM_SUPPORT_CUDA_NVTX_H_

#include <string>

namespace tvm {
namespace support {

class NVTXScopedRange {
 public:
  explicit NVTXScopedRange(const std::string&) {}
};

}  // namespace support
}  // namespace tvm

#endif  // OFATVM_TVM_SUPPORT_CUDA_NVTX_H_
