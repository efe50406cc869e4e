/* libFuzzer's program: the data plane's modules, compiled to tell what they run through, loaded into
 * a Python that is embedded here, and called without Python from then on.
 *
 * PYSLIRP_FUZZ chooses what the bytes are: "stack", a script (ext/slirp/core/fuzz_script.pyx), or
 * "api", a request (tests/fuzz/apitarget.py). For the latter, lines of slirp/ count as coverage. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNTERS 16384

/* libFuzzer takes bytes of this section for counters of branches. */
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t lines[COUNTERS];

static const char *(*run_script)(const uint8_t *, size_t);
static PyObject *run_request;

static void fail(const char *what) {
    if (PyErr_Occurred())
        PyErr_Print();
    fprintf(stderr, "pyslirp: %s\n", what);
    abort();
}

/* Each line after each other line of one of our files is a branch of its own. */
static int trace(PyObject *unused, PyFrameObject *frame, int what, PyObject *argument) {
    static unsigned previous;
    (void)unused, (void)argument;
    if (what == PyTrace_LINE) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        const char *file = PyUnicode_AsUTF8(code->co_filename);
        if (file != NULL && strstr(file, "/slirp/") != NULL) {
            unsigned here = (unsigned)PyFrame_GetLineNumber(frame) * 2654435761u
                            + (unsigned)strlen(file) * 40503u;
            lines[(here ^ previous >> 1) % COUNTERS]++;
            previous = here;
        }
        Py_DECREF(code);
    }
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *target = getenv("PYSLIRP_FUZZ");
    (void)argc, (void)argv;
    Py_InitializeEx(0);
    if (target != NULL && strcmp(target, "api") == 0) {
        PyObject *module = PyImport_ImportModule("apitarget");
        run_request = module ? PyObject_GetAttrString(module, "run") : NULL;
        if (run_request == NULL)
            fail("no tests/fuzz/apitarget.py");
        PyEval_SetTrace(trace, NULL);
        return 0;
    }
    PyObject *module = PyImport_ImportModule("slirp.core.fuzz_script");
    PyObject *functions = module ? PyObject_GetAttrString(module, "__pyx_capi__") : NULL;
    PyObject *capsule = functions ? PyDict_GetItemString(functions, "fuzz_run") : NULL;
    if (capsule == NULL)
        fail("no slirp.core.fuzz_script");
    *(void **)&run_script = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (run_request != NULL) {
        PyObject *result = PyObject_CallFunction(run_request, "y#", (const char *)data, (Py_ssize_t)n);
        if (result == NULL)
            fail("an exception");
        Py_DECREF(result);
        return 0;
    }
    const char *failure = run_script(data, n);
    if (failure != NULL || PyErr_Occurred())
        fail(failure ? failure : "an exception");
    return 0;
}
