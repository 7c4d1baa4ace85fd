// Run the compiled network from C++: ./classify MODEL.so INPUT [TOP]
//
// INPUT is a .npy file of float32, or the same numbers raw, already normalised, NHWC: one input as
// below, or several after each other. Prints for each the TOP largest outputs (default 5) as
// "class value" lines, or every output in order when TOP is 0. README.md has the line that compiles
// this file.
@INCLUDES@

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Filled in from manifest.json when the bundle was written.
const std::vector<int64_t> kInputShape = {@INPUT_SHAPE@};

int64_t InputSize() {
  return std::accumulate(kInputShape.begin(), kInputShape.end(), int64_t{1},
                         std::multiplies<int64_t>());
}

std::vector<float> ReadInputs(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  size_t offset = 0;
  if (bytes.size() >= 12 && std::memcmp(bytes.data(), "\x93NUMPY", 6) == 0) {
    auto at = [&bytes](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(bytes[i])); };
    const bool first = bytes[6] == 1;
    const size_t start = first ? 10 : 12;
    const size_t length = at(8) | at(9) << 8 | (first ? 0 : at(10) << 16 | at(11) << 24);
    offset = start + length;
    if (offset > bytes.size()) throw std::runtime_error(path + " is cut off");
    const std::string header(bytes.data() + start, length);
    if (header.find("'<f4'") == std::string::npos ||
        header.find("'fortran_order': False") == std::string::npos) {
      throw std::runtime_error(path + " is not a float32 array in C order");
    }
  }
  const int64_t wanted = InputSize();
  const size_t size = static_cast<size_t>(wanted) * sizeof(float), held = bytes.size() - offset;
  if (held == 0 || held % size != 0) {
    throw std::runtime_error(path + " has " + std::to_string(held) +
                             " bytes of numbers, the network takes " + std::to_string(size));
  }
  std::vector<float> values(held / sizeof(float));
  std::memcpy(values.data(), bytes.data() + offset, held);
  return values;
}

@NETWORK@

void Print(const std::vector<float>& output, size_t top) {
  if (!std::all_of(output.begin(), output.end(), [](float value) { return std::isfinite(value); })) {
    throw std::runtime_error("the network's output is not finite, so that it names no class");
  }
  std::vector<size_t> order(output.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (top > 0) {
    std::stable_sort(order.begin(), order.end(),
                     [&output](size_t a, size_t b) { return output[a] > output[b]; });
    order.resize(std::min(order.size(), top));
  }
  for (size_t index : order) std::printf("%zu %.9g\n", index, output[index]);
}

int Run(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: %s MODEL.so INPUT.npy [TOP]\n", argv[0]);
    return 2;
  }
  std::string model = argv[1];
  if (model.find('/') == std::string::npos) model = "./" + model;
  char* end = nullptr;
  const long top = argc > 3 ? std::strtol(argv[3], &end, 10) : 5;
  if (top < 0 || (argc > 3 && (end == argv[3] || *end != '\0'))) {
    throw std::runtime_error(std::string("TOP must be a whole number from 0, got ") + argv[3]);
  }
  const std::vector<float> inputs = ReadInputs(argv[2]);

  Network network(model);
  const size_t size = static_cast<size_t>(InputSize());
  for (size_t first = 0; first < inputs.size(); first += size) {
    Print(network(inputs.data() + first), static_cast<size_t>(top));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
