// The network in a file, by the graph executor of TVM 0.19.
class Network {
 public:
  explicit Network(const std::string& model) {
    namespace runtime = tvm::runtime;
    const DLDevice cpu{kDLCPU, 0};
    runtime::Module factory = runtime::Module::LoadFromFile(model);
    executor_ = factory.GetFunction("default")(cpu);
    x_ = runtime::NDArray::Empty(runtime::ShapeTuple(kInputShape.begin(), kInputShape.end()),
                                 DLDataType{kDLFloat, 32, 1}, cpu);
  }

  std::vector<float> operator()(const float* input) {
    x_.CopyFromBytes(input, static_cast<size_t>(InputSize()) * sizeof(float));
    executor_.GetFunction("set_input")("x", x_);
    executor_.GetFunction("run")();
    tvm::runtime::NDArray y = executor_.GetFunction("get_output")(0);
    int64_t size = 1;
    for (int64_t part : y.Shape()) size *= part;
    std::vector<float> output(static_cast<size_t>(size));
    y.CopyToBytes(output.data(), output.size() * sizeof(float));
    return output;
  }

 private:
  tvm::runtime::Module executor_;
  tvm::runtime::NDArray x_;
};
