// Stand-in for a header of TVM that its wheels lack.
#ifndef OFATVM_SUPPORT_UTILS_H_
#define OFATVM_SUPPORT_UTILS_H_

#include <algorithm>
#include <string>

namespace tvm {
namespace support {

inline bool IsNumber(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace support
}  // namespace tvm

#endif  // OFATVM_SUPPORT_UTILS_H_
