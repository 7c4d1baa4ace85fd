const DLDeviceType kDevice = @DEVICE@;

struct Allocator {
  void AllocData(DLTensor* tensor) {
    const size_t line = 64;  // TVM's alignment
    const size_t size = (tvm::ffi::GetDataSize(*tensor) + line - 1) / line * line;
    tensor->data = std::aligned_alloc(line, size);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

tvm::ffi::Function Global(const char* name) { return tvm::ffi::Function::GetGlobalRequired(name); }

// The network in a file, by Relax's virtual machine.
class Network {
 public:
  explicit Network(const std::string& model) {
    namespace ffi = tvm::ffi;
    const int cpu = static_cast<int>(kDLCPU), device = static_cast<int>(kDevice);
    if (device != cpu && Global("runtime.GetDeviceAttr")(device, 0, 0).cast<int64_t>() == 0) {
      throw std::runtime_error(
          "this network needs an NVIDIA GPU, its driver and TVM's CUDA runtime");
    }
    ffi::Module library = ffi::Module::LoadFromFile(model);
    machine_ = library->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
    const int kPooledAllocator = 2;
    ffi::Function initialise = Function("vm_initialization");
    if (device == cpu) {
      initialise(cpu, 0, kPooledAllocator);
    } else {
      initialise(device, 0, kPooledAllocator, cpu, 0, kPooledAllocator);
    }
    x_ = ffi::Tensor::FromNDAlloc(
        Allocator(), ffi::ShapeView(kInputShape.data(), kInputShape.size()),
        DLDataType{kDLFloat, 32, 1}, DLDevice{kDLCPU, 0});
  }

  std::vector<float> operator()(const float* input) {
    std::memcpy(x_.value().data_ptr(), input, static_cast<size_t>(InputSize()) * sizeof(float));
    if (kDevice == kDLCPU) {
      tvm::ffi::Tensor y = Function("main")(x_.value()).cast<tvm::ffi::Tensor>();
      const float* output = static_cast<const float*>(y.data_ptr());
      return std::vector<float>(output, output + y.numel());
    }
    // A GPU's tensors are copied to the CPU and from it by the virtual machine and the runtime.
    Function("set_input")("main", x_.value());
    Function("invoke_stateful")("main");
    tvm::ffi::Tensor y = Function("get_output")("main").cast<tvm::ffi::Tensor>();
    std::vector<float> output(static_cast<size_t>(y.numel()));
    Global("runtime.TVMTensorCopyToBytes")(y, static_cast<void*>(output.data()),
                                           static_cast<int64_t>(output.size() * sizeof(float)));
    return output;
  }

 private:
  tvm::ffi::Function Function(const char* name) {
    return machine_.value()->GetFunction(name).value();
  }

  tvm::ffi::Optional<tvm::ffi::Module> machine_;
  tvm::ffi::Optional<tvm::ffi::Tensor> x_;
};
