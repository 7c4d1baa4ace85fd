// Stand-in for a header of TVM that its wheels lack. Base64 serves tensors in JSON, which running a
// network never meets: both streams refuse.
#ifndef OFATVM_SUPPORT_BASE64_H_
#define OFATVM_SUPPORT_BASE64_H_

#include <tvm/support/io.h>
#include <tvm/support/serializer.h>

#include <stdexcept>

namespace tvm {
namespace support {

class Base64Stream : public Stream {
 public:
  using Stream::Read;
  using Stream::Write;

  explicit Base64Stream(Stream*) {}
  size_t Read(void*, size_t) final { throw std::runtime_error("no tensors in JSON"); }
  size_t Write(const void*, size_t) final { throw std::runtime_error("no tensors in JSON"); }
  void InitPosition() {}
  void Finish() {}
};

using Base64InStream = Base64Stream;
using Base64OutStream = Base64Stream;

}  // namespace support
}  // namespace tvm

#endif  // OFATVM_SUPPORT_BASE64_H_
