/* The CUDA runtime and driver, cuBLAS and NCCL of a GPU that computes nothing; see __init__.py.
 *
 * Memory of the device is memory of the host, copies are memmove, kernels are counted. It is loaded before the real
 * libraries, whose functions it so replaces; only those that torch 2.14 with CUDA 13 calls are here. Where another version
 * calls one more, the real one fails: add it.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define API __attribute__((visibility("default")))

/* Functions that succeed and have nothing to do; an assembler's name keeps them apart from the headers' prototypes. */
#define SUCCEEDS(name) \
    API int succeeds_##name(void) __asm__(#name); \
    API int succeeds_##name(void) { return 0; }

/* What is counted. */

enum { LAUNCH, TRITON, BLAS, BLAS_THREAD, TO_DEVICE, TO_HOST, ON_DEVICE, SYNCHRONIZE, NCCL, GRAPH, NUM_COUNTS };
static const char *const count_names[] = {"launch",    "triton",      "blas", "blas_thread", "to_device", "to_host",
                                          "on_device", "synchronize", "nccl", "graph"};
static _Atomic long counts[NUM_COUNTS];

API long noop_gpu_count(int i) { return i < NUM_COUNTS ? counts[i] : -1; }
API const char *noop_gpu_count_name(int i) { return i < NUM_COUNTS ? count_names[i] : NULL; }

/* Devices. */

#define MAX_DEVICES 8
static _Thread_local int current;
static _Thread_local cudaError_t last_error;

static cudaError_t failed(cudaError_t error) { return last_error = error; }

static int device_count(void) {
    const char *value = getenv("NOOP_GPU_COUNT");
    return value ? atoi(value) : 1;
}

/* NOOP_GPU_CAPABILITIES=90,75: of each device, the last for all that follow. */
static int capability(int device) {
    const char *value = getenv("NOOP_GPU_CAPABILITIES");
    for (; value && device > 0 && strchr(value, ','); device--) value = strchr(value, ',') + 1;
    return value ? atoi(value) : 90;
}

static int attribute(int which, int device) {
    switch (which) {
    case cudaDevAttrComputeCapabilityMajor: return capability(device) / 10;
    case cudaDevAttrComputeCapabilityMinor: return capability(device) % 10;
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 227 << 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 228 << 10;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return INT32_MAX;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrL2CacheSize: return 50 << 20;
    case cudaDevAttrClockRate: return 1980000;
    case cudaDevAttrMemoryClockRate: return 2619000;
    case cudaDevAttrGlobalMemoryBusWidth: return 5120;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return 32;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrStreamPrioritiesSupported: return 1;
    default: return 0;
    }
}

static size_t memory_size = 80ull << 30;

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "no-op GPU");
    p->totalGlobalMem = memory_size;
    p->major = capability(device) / 10;
    p->minor = capability(device) % 10;
    p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount, device);
    p->warpSize = 32;
    p->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock, device);
    p->sharedMemPerBlockOptin = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    p->sharedMemPerMultiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxGridSize[0] = INT32_MAX;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxBlocksPerMultiProcessor = 32;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->totalConstMem = 65536;
    p->textureAlignment = 512;
    p->asyncEngineCount = 3;
    p->unifiedAddressing = p->concurrentKernels = p->canMapHostMemory = 1;
    return cudaSuccess;
}
API cudaError_t cudaGetDeviceCount(int *n) { return *n = device_count(), cudaSuccess; }
API cudaError_t cudaGetDevice(int *device) { return *device = current, cudaSuccess; }
API cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
    return current = device, cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
    return *value = attribute(which, device), cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    return *least = 0, *greatest = -5, cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { return *can = 1, cudaSuccess; }
SUCCEEDS(cudaDeviceEnablePeerAccess)
API cudaError_t cudaDeviceGetPCIBusId(char *id, int n, int device) {
    return snprintf(id, n, "0000:%02x:00.0", device + 1), cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
API cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    return last_error = cudaSuccess, error;
}
API cudaError_t cudaPeekAtLastError(void) { return last_error; }

/* Memory. New memory is all zeros, so that without torch's cache of freed memory every number is one. */

enum { HOST, DEVICE, PINNED };
static struct { char *start; size_t size; int kind; } ranges[1 << 16];
static int num_ranges;
static size_t used;
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;

/* From now on the device has this much free. */
API void noop_gpu_leave(size_t bytes) { memory_size = used + bytes; }

static cudaError_t allocate(void **p, size_t size, int kind) {
    cudaError_t result = cudaSuccess;
    *p = NULL;
    if (size == 0) return result;
    pthread_mutex_lock(&ranges_lock);
    void *start = MAP_FAILED;
    if (kind != DEVICE || used + size <= memory_size)
        start = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        result = failed(cudaErrorMemoryAllocation);
    } else {
        int i = 0;
        while (i < num_ranges && ranges[i].start) i++;
        if (i == num_ranges) num_ranges++;
        ranges[i].start = *p = start, ranges[i].size = size, ranges[i].kind = kind;
        if (kind == DEVICE) used += size;
    }
    pthread_mutex_unlock(&ranges_lock);
    return result;
}

static cudaError_t release(void *p) {
    pthread_mutex_lock(&ranges_lock);
    for (int i = 0; p && i < num_ranges; i++)
        if (ranges[i].start == p) {
            if (ranges[i].kind == DEVICE) used -= ranges[i].size;
            munmap(p, ranges[i].size);
            ranges[i].start = NULL;
            break;
        }
    pthread_mutex_unlock(&ranges_lock);
    return cudaSuccess;
}

static int kind_of(const void *p) {
    int kind = HOST;
    pthread_mutex_lock(&ranges_lock);
    for (int i = 0; i < num_ranges; i++)
        if (ranges[i].start && (char *)p >= ranges[i].start && (char *)p < ranges[i].start + ranges[i].size) {
            kind = ranges[i].kind;
            break;
        }
    pthread_mutex_unlock(&ranges_lock);
    return kind;
}

/* What is being captured: nothing of it is done, nor when the graph is launched. */

static cudaStream_t captured_stream;
static pthread_t capturing_thread;
static enum cudaStreamCaptureMode capture_mode;
static _Atomic int capturing, capture_failed;

/* Whether a call that waits, or that a graph cannot repeat, spoils a capture. NOOP_GPU_NO_GRAPHS: none succeeds. */
static int spoils_capture(void) {
    int spoils = capturing && (capture_mode == cudaStreamCaptureModeGlobal || pthread_equal(capturing_thread, pthread_self()));
    if (spoils) capture_failed = 1;
    return spoils;
}
#define UNLESS_CAPTURED(result) \
    return spoils_capture() ? failed(cudaErrorStreamCaptureUnsupported) : ((result), cudaSuccess)

/* What goes to another stream meanwhile would be done at once, and never again. */
static int is_captured(cudaStream_t s) { return capturing && s == captured_stream; }
static int escapes_capture(cudaStream_t s) { return capturing && s == NULL; }

API cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    if (s == NULL) return failed(cudaErrorStreamCaptureUnsupported);
    captured_stream = s, capture_mode = mode, capturing_thread = pthread_self(), capture_failed = 0, capturing = 1;
    return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) {
    capturing = 0;
    if (capture_failed || getenv("NOOP_GPU_NO_GRAPHS")) return *graph = NULL, failed(cudaErrorStreamCaptureInvalidated);
    return *graph = (cudaGraph_t)1, cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    return *status = is_captured(s) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone, cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *graph,
    const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges, size_t *n) {
    if (id) *id = is_captured(s);
    if (graph) *graph = (cudaGraph_t)1;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (n) *n = 0;
    return cudaStreamIsCapturing(s, status);
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    return *executable = (cudaGraphExec_t)1, cudaSuccess;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t s) { return counts[GRAPH]++, cudaSuccess; }
API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n) { return *n = 1, cudaSuccess; }
API cudaError_t cudaUserObjectCreate(cudaUserObject_t *object, void *p, cudaHostFn_t f, unsigned n, unsigned flags) {
    return *object = (cudaUserObject_t)1, cudaSuccess;
}
SUCCEEDS(cudaGraphDestroy)
SUCCEEDS(cudaGraphExecDestroy)
SUCCEEDS(cudaGraphRetainUserObject)
SUCCEEDS(cudaUserObjectRelease)
SUCCEEDS(cudaStreamUpdateCaptureDependencies)

/* NOOP_GPU_ZEROS: what comes from the device is all zeros, for when torch's cache makes its memory not new. */
static cudaError_t copy(void *to, const void *from, size_t size) {
    int of = kind_of(from) == DEVICE, to_host = kind_of(to) != DEVICE;
    counts[to_host ? TO_HOST : of ? ON_DEVICE : TO_DEVICE]++;
    if (to_host && getenv("NOOP_GPU_ZEROS")) return memset(to, 0, size), cudaSuccess;
    return memmove(to, from, size), cudaSuccess;
}

API cudaError_t cudaMalloc(void **p, size_t n) { return allocate(p, n, DEVICE); }
API cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) { return allocate(p, n, DEVICE); }
API cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags) {
    return spoils_capture() ? failed(cudaErrorStreamCaptureUnsupported) : allocate(p, n, PINNED);
}
API cudaError_t cudaFree(void *p) { return release(p); }
API cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { return release(p); }
API cudaError_t cudaFreeHost(void *p) { return release(p); }
API cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    return *total = memory_size, *free = memory_size > used ? memory_size - used : 0, cudaSuccess;
}
API cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind k) {
    return spoils_capture() ? failed(cudaErrorStreamCaptureUnsupported) : copy(to, from, n);
}
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind k, cudaStream_t s) {
    if (escapes_capture(s) || (is_captured(s) && (kind_of(from) == HOST || kind_of(to) == HOST))) {
        capture_failed = 1;
        return failed(cudaErrorStreamCaptureUnsupported);
    }
    return is_captured(s) ? cudaSuccess : copy(to, from, n);
}
API cudaError_t cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t n, cudaStream_t s) {
    return copy(to, from, n);
}
API cudaError_t cudaMemset(void *to, int value, size_t n) { return memset(to, value, n), cudaSuccess; }
API cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s) {
    return is_captured(s) ? cudaSuccess : cudaMemset(to, value, n);
}
API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    int kind = kind_of(p);
    memset(a, 0, sizeof *a);
    a->type = kind == DEVICE ? cudaMemoryTypeDevice : kind == PINNED ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    a->device = kind == HOST ? -1 : current;
    a->devicePointer = (void *)p;
    a->hostPointer = kind == PINNED ? (void *)p : NULL;
    return cudaSuccess;
}
SUCCEEDS(cudaMemcpyToSymbol)
SUCCEEDS(cudaHostRegister)
SUCCEEDS(cudaHostUnregister)

/* Streams and events: all is done at once, so they are names alone. */

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
    return *s = malloc(16), cudaSuccess;
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { return *s = malloc(16), cudaSuccess; }
API cudaError_t cudaStreamCreate(cudaStream_t *s) { return *s = malloc(16), cudaSuccess; }
API cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) { return *priority = 0, cudaSuccess; }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { return *e = malloc(16), cudaSuccess; }
API cudaError_t cudaEventCreate(cudaEvent_t *e) { return *e = malloc(16), cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { return *ms = 1, cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t s) { UNLESS_CAPTURED(counts[SYNCHRONIZE]++); }
API cudaError_t cudaEventSynchronize(cudaEvent_t e) { UNLESS_CAPTURED(counts[SYNCHRONIZE]++); }
API cudaError_t cudaDeviceSynchronize(void) { UNLESS_CAPTURED(counts[SYNCHRONIZE]++); }
API cudaError_t cudaEventQuery(cudaEvent_t e) { UNLESS_CAPTURED(0); }
API cudaError_t cudaStreamQuery(cudaStream_t s) { UNLESS_CAPTURED(0); }
SUCCEEDS(cudaStreamDestroy)
SUCCEEDS(cudaStreamWaitEvent)
SUCCEEDS(cudaThreadExchangeStreamCaptureMode)
SUCCEEDS(cudaEventDestroy)
SUCCEEDS(cudaEventRecord)
SUCCEEDS(cudaEventRecordWithFlags)

/* Kernels: counted, one by one by the name that the compiler gave them. */

typedef struct { const void *function; const char *name; _Atomic long count; } Kernel;
#define NUM_KERNELS (1 << 19) /* a power of two; torch registers 60,000 */
static Kernel *kernels;
static pthread_mutex_t kernels_lock = PTHREAD_MUTEX_INITIALIZER;

/* The kernel's entry, made where there is none. */
static Kernel *kernel(const void *function, const char *name) {
    pthread_mutex_lock(&kernels_lock);
    if (!kernels)
        kernels = mmap(0, sizeof(Kernel) * NUM_KERNELS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t place = ((uintptr_t)function >> 4) * 11400714819323198485ull >> 45;
    while (kernels[place].function && kernels[place].function != function) place = (place + 1) % NUM_KERNELS;
    kernels[place].function = function;
    if (name) kernels[place].name = name;
    pthread_mutex_unlock(&kernels_lock);
    return &kernels[place];
}

/* Names and counts of the kernels launched since the last call, a line each. */
API void noop_gpu_write_kernels(const char *path) {
    FILE *file = fopen(path, "w");
    for (size_t i = 0; kernels && i < NUM_KERNELS; i++) {
        long count = atomic_exchange(&kernels[i].count, 0);
        if (count) fprintf(file, "%ld %s\n", count, kernels[i].name ? kernels[i].name : "?");
    }
    fclose(file);
}

static cudaError_t launch(int which, const void *function, dim3 grid, dim3 block, cudaStream_t stream) {
    if (escapes_capture(stream)) {
        capture_failed = 1;
        return failed(cudaErrorStreamCaptureImplicit);
    }
    counts[which]++;
    kernel(function, NULL)->count++;
    int fits = grid.x && grid.y && grid.z && grid.y <= 65535 && grid.z <= 65535 && block.x * block.y * block.z <= 1024;
    return fits ? cudaSuccess : failed(cudaErrorInvalidConfiguration);
}

static _Thread_local struct { dim3 grid, block; size_t shared; cudaStream_t stream; } pushed;

API void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    return &handle;
}
API void __cudaRegisterFunction(void **handle, const char *function, char *a, const char *name, int b, void *c,
                                void *d, void *e, void *f, int *g) {
    kernel(function, name);
}
API cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *function) {
    return *k = (cudaKernel_t)function, cudaSuccess;
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *(cudaStream_t *)stream = pushed.stream;
    return cudaSuccess;
}
API cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **a, size_t shared, cudaStream_t s) {
    return launch(LAUNCH, f, grid, block, s);
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void **a, size_t shared, cudaStream_t s) {
    return launch(LAUNCH, f, grid, block, s);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) {
    return launch(LAUNCH, f, c->gridDim, c->blockDim, c->stream);
}
API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024, a->numRegs = 32, a->ptxVersion = a->binaryVersion = 90;
    a->maxDynamicSharedSizeBytes = 227 << 10;
    return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *n, const void *f, int block, size_t shared, unsigned flags) {
    return *n = 2, cudaSuccess;
}
SUCCEEDS(__cudaRegisterFatBinaryEnd)
SUCCEEDS(__cudaUnregisterFatBinary)
SUCCEEDS(__cudaRegisterVar)
SUCCEEDS(cudaFuncSetAttribute)
SUCCEEDS(cudaKernelSetAttributeForDevice)

/* The driver, which Triton uses, and torch for what the runtime has not. */

API cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *result) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (!*function) *function = (void *)succeeds_cudaStreamDestroy;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
API CUresult cuDriverGetVersion(int *version) { return *version = 13000, 0; }
API CUresult cuDeviceGetCount(int *n) { return *n = device_count(), 0; }
API CUresult cuDeviceGet(CUdevice *device, int i) { return *device = i, 0; }
API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    return *value = attribute((int)which, device), 0;
}
API CUresult cuDeviceGetName(char *name, int n, CUdevice device) { return snprintf(name, n, "no-op GPU"), 0; }
API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    if (flags) *flags = 0;
    return *active = 1, 0;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice device) { return *c = (CUcontext)1, 0; }
API CUresult cuCtxGetCurrent(CUcontext *c) { return *c = (CUcontext)1, 0; }
API CUresult cuCtxGetDevice(CUdevice *device) { return *device = current, 0; }
API CUresult cuGetErrorString(CUresult r, const char **text) { return *text = "no-op GPU", 0; }
API CUresult cuModuleLoad(CUmodule *m, const char *file) { return *m = (CUmodule)1, 0; }
API CUresult cuModuleLoadData(CUmodule *m, const void *data) { return *m = (CUmodule)1, 0; }
API CUresult cuModuleLoadDataEx(CUmodule *m, const void *data, unsigned n, CUjit_option *o, void **v) {
    return *m = (CUmodule)1, 0;
}
API CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
    char *named = strdup(name);
    kernel(named, named);
    return *f = (CUfunction)named, 0;
}
API CUresult cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction f) {
    *value = which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return 0;
}
static CUresult launch_triton(CUfunction f, unsigned x, unsigned y, unsigned z, CUstream s) {
    return launch(TRITON, f, (dim3){x, y, z}, (dim3){1, 1, 1}, (cudaStream_t)s) ? CUDA_ERROR_INVALID_VALUE : 0;
}
API CUresult cuLaunchKernel(CUfunction f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                            unsigned shared, CUstream s, void **p, void **e) {
    return launch_triton(f, x, y, z, s);
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **e) {
    return launch_triton(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->hStream);
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int block, size_t shared) {
    return *n = 2, 0;
}
API CUresult cuPointerGetAttribute(void *data, CUpointer_attribute which, CUdeviceptr p) {
    if (which == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)data = p;
    else *(int *)data = 0;
    return 0;
}
SUCCEEDS(cuInit)
SUCCEEDS(cuCtxSetCurrent)
SUCCEEDS(cuCtxGetLimit)
SUCCEEDS(cuCtxSetLimit)
SUCCEEDS(cuModuleUnload)
SUCCEEDS(cuFuncSetAttribute)
SUCCEEDS(cuFuncSetCacheConfig)
SUCCEEDS(cuTensorMapEncodeTiled)

/* cuBLAS. */

static int multiply(void) {
    static _Thread_local int seen;
    if (!seen++) counts[BLAS_THREAD]++;
    return counts[BLAS]++, 0;
}
#define MULTIPLIES(name) API int name(void) { return multiply(); }
#define CREATES(name) API int name(void **handle) { return *handle = calloc(1, 64), 0; }

MULTIPLIES(cublasGemmEx)
MULTIPLIES(cublasGemmStridedBatchedEx)
MULTIPLIES(cublasSgemm_v2)
MULTIPLIES(cublasSgemmEx)
MULTIPLIES(cublasSgemmStridedBatched)
MULTIPLIES(cublasSgemv_v2)
MULTIPLIES(cublasSdot_v2)
MULTIPLIES(cublasDotEx)
MULTIPLIES(cublasDgemm_v2)
MULTIPLIES(cublasDgemmStridedBatched)
MULTIPLIES(cublasLtMatmul)
CREATES(cublasCreate_v2)
CREATES(cublasLtCreate)
CREATES(cublasLtMatmulDescCreate)
CREATES(cublasLtMatmulPreferenceCreate)
CREATES(cublasLtMatrixLayoutCreate)
API int cublasGetMathMode(void *handle, int *mode) { return *mode = 0, 0; }
API int cublasGetPointerMode_v2(void *handle, int *mode) { return *mode = 0, 0; }
API size_t cublasLtGetVersion(void) { return 130000; }
API int cublasLtMatmulAlgoGetHeuristic(void *handle, void *d, void *a, void *b, void *c, void *e, void *preference,
                                       int wanted, char *results, int *found) {
    return memset(results, 0, 96), *found = 1, 0;
}
SUCCEEDS(cublasDestroy_v2)
SUCCEEDS(cublasSetStream_v2)
SUCCEEDS(cublasSetWorkspace_v2)
SUCCEEDS(cublasSetMathMode)
SUCCEEDS(cublasSetPointerMode_v2)
SUCCEEDS(cublasSetSmCountTarget)
SUCCEEDS(cublasLtMatmulDescDestroy)
SUCCEEDS(cublasLtMatmulDescSetAttribute)
SUCCEEDS(cublasLtMatmulPreferenceDestroy)
SUCCEEDS(cublasLtMatmulPreferenceSetAttribute)
SUCCEEDS(cublasLtMatrixLayoutDestroy)
SUCCEEDS(cublasLtMatrixLayoutSetAttribute)

/* NCCL: each worker gets back what it gave, as if all had given the same. */

typedef struct { int rank, size; } Communicator;
typedef struct { char bytes[128]; } Id;
static const int type_sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

API int ncclGetVersion(int *version) { return *version = 23007, 0; }
API int ncclGetUniqueId(Id *id) { return memset(id, 7, sizeof *id), 0; }
API int ncclCommInitRankConfig(Communicator **c, int size, Id id, int rank, void *config) {
    *c = malloc(sizeof **c);
    **c = (Communicator){rank, size};
    return 0;
}
API int ncclCommInitRank(Communicator **c, int size, Id id, int rank) {
    return ncclCommInitRankConfig(c, size, id, rank, NULL);
}
API int ncclCommCount(Communicator *c, int *size) { return *size = c->size, 0; }
API int ncclCommUserRank(Communicator *c, int *rank) { return *rank = c->rank, 0; }
API int ncclCommGetAsyncError(Communicator *c, int *error) { return *error = 0, 0; }
API const char *ncclGetErrorString(int error) { return "no-op NCCL"; }
API const char *ncclGetLastError(Communicator *c) { return ""; }
API int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, Communicator *c, void *s) {
    return counts[NCCL]++, memmove(to, from, n * type_sizes[type]), 0;
}
API int ncclAllGather(const void *from, void *to, size_t n, int type, Communicator *c, void *s) {
    size_t size = n * type_sizes[type];
    for (int i = 0; i < c->size; i++) memmove((char *)to + i * size, from, size);
    return counts[NCCL]++, 0;
}
API int ncclBroadcast(const void *from, void *to, size_t n, int type, int root, Communicator *c, void *s) {
    return counts[NCCL]++, memmove(to, from, n * type_sizes[type]), 0;
}
API int ncclBcast(void *values, size_t n, int type, int root, Communicator *c, void *s) { return counts[NCCL]++, 0; }
SUCCEEDS(ncclCommAbort)
SUCCEEDS(ncclCommFinalize)
SUCCEEDS(ncclCommDestroy)
SUCCEEDS(ncclGroupStart)
SUCCEEDS(ncclGroupEnd)
