// SPDX-License-Identifier: MIT
/*
 * read() and write() of the block top end for Python.
 *
 * The only C here that is no cffi: cffi gives the GIL up in every call. A
 * request that a device in this process completes at once would pay for that
 * with two hand-overs among the server's threads, which cost more than the
 * request. Here the GIL is given up only when there is something to wait for.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "usrdrv/block.h"

static void leave(struct usrdrv_gate *gate)
{
	gate->state = PyEval_SaveThread();
}

static PyObject *submit(enum usrdrv_block_op op, PyObject *const *args, unsigned int flags)
{
	struct usrdrv_gate gate = { .leave = leave };
	struct usrdrv_block *b = PyLong_AsVoidPtr(args[0]);
	unsigned long long offset = PyLong_AsUnsignedLongLong(args[2]);
	Py_buffer view;
	int ret;

	if (PyErr_Occurred())
		return NULL;
	if (PyObject_GetBuffer(args[1], &view, op == USRDRV_BLOCK_READ ? PyBUF_WRITABLE : PyBUF_SIMPLE))
		return NULL;
	ret = b->ops->submit_wait(b, op, offset, (uint64_t)view.len, view.buf, flags, &gate);
	if (gate.left)
		PyEval_RestoreThread(gate.state);
	PyBuffer_Release(&view);
	return PyLong_FromLong(ret);
}

static PyObject *request_read(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
	if (n != 3)
		return PyErr_Format(PyExc_TypeError, "read(block, buffer, offset): got %zd arguments", n);
	return submit(USRDRV_BLOCK_READ, args, 0);
}

static PyObject *request_write(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
	unsigned long flags;

	if (n != 4)
		return PyErr_Format(PyExc_TypeError, "write(block, buffer, offset, flags): got %zd arguments", n);
	flags = PyLong_AsUnsignedLong(args[3]);
	if (PyErr_Occurred())
		return NULL;
	return submit(USRDRV_BLOCK_WRITE, args, (unsigned int)flags);
}

static PyMethodDef methods[] = {
	{ "read", (PyCFunction)(void (*)(void))request_read, METH_FASTCALL,
	  "read(block, buffer, offset) -> 0 or -errno\n\nblock: address of struct usrdrv_block." },
	{ "write", (PyCFunction)(void (*)(void))request_write, METH_FASTCALL,
	  "write(block, buffer, offset, flags) -> 0 or -errno\n\nflags: USRDRV_BLOCK_FUA or 0." },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT, .m_name = "_request", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__request(void)
{
	return PyModuleDef_Init(&module);
}
