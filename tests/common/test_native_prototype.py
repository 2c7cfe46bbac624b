"""Prototypes become values; what they cannot express is refused by name."""

import pytest

from common.native import prototype


def test_names_types_and_directions_are_read() -> None:
    parsed = prototype.parse(
        "double dot(const float *restrict x, const float* y, double* out, int64_t n);"
    )

    assert (parsed.name, parsed.result) == ("dot", "double")
    assert [p.name for p in parsed.parameters] == ["x", "y", "out", "n"]
    assert [p.is_pointer for p in parsed.parameters] == [True, True, True, False]
    assert [p.is_written for p in parsed.parameters] == [False, False, True, False]
    assert [p.dtype for p in parsed.parameters] == ["float32", "float32", "float64", "int64"]


def test_const_after_the_type_means_the_same() -> None:
    assert not prototype.parse("void f(float const *x)").parameters[0].is_written


def test_const_pointer_to_writable_data_is_an_output() -> None:
    assert prototype.parse("void f(float *const x)").parameters[0].is_written


@pytest.mark.parametrize("arguments", ["void", ""])
def test_no_parameters(arguments: str) -> None:
    assert prototype.parse(f"int32_t version({arguments})").parameters == ()


def test_python_keywords_get_an_underscore() -> None:
    assert prototype.parse("void f(const float* in, float* out)").parameters[0].name == "in_"


def test_equal_text_gives_equal_values() -> None:
    assert prototype.parse("void f(int8_t n)") == prototype.parse(" void f(int8_t n); ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("void f(int n)", "parameter 'n' must be float, double or a fixed-width"),
        ("void f(long* n)", "parameter 'n' must be .* got long"),
        ("void f(float** x)", "parameter 'x' must be .* got a compound type"),
        ("void f(void* x)", "parameter 'x' must be .* got void"),
        ("void f(float x[])", "parameter 'x' must be"),
        ("unsigned int f(int8_t n)", "the result of f must be .* got unsigned int"),
        ("float* f(int8_t n)", "the result of f must be"),
        ("void f(const float*)", "every parameter of a prototype needs a name"),
        ("void f(float x", "not a C prototype"),
        ("int64_t n", "wanted one C function prototype"),
        ("void f(int8_t a); void g(int8_t b)", "wanted one C function prototype"),
        ("void f(int8_t n, ...)", "variable"),
    ],
)
def test_what_cannot_be_passed_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prototype.parse(text)


def test_carried_dtypes_need_the_integer_that_carries_them() -> None:
    text = "void f(const uint16_t* w, float* x)"
    assert prototype.parse(text, {"w": "bfloat16"}).parameters[0].dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"float\* x cannot hold bfloat16"):
        prototype.parse(text, {"x": "bfloat16"})


@pytest.mark.parametrize("option", ["dtypes", "strided", "optional"])
def test_options_must_name_a_pointer(option: str) -> None:
    value = {"n": "bool"} if option == "dtypes" else ["n"]
    with pytest.raises(ValueError, match="'n' is no pointer parameter of f"):
        prototype.parse("void f(const float* x, int64_t n)", **{option: value})
