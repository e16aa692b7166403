// Python objects -> the fields of a step (plan/fields.h). They come as objects, so that what is wrong with one can be said in words.
#pragma once

#include "bindings.h"
#include "plan/finish_spec.h"

namespace ulp::bindings {

std::string type_name(const py::handle& x);

int int_of(const py::handle& x, const std::string& name);
float float_of(const py::handle& x, const std::string& name);
bool flag_of(const py::handle& x, const std::string& name);
py::sequence sequence_of(const py::handle& x, const std::string& name, const char* of);

// Sets the fields from a dict of their names. Messages call a field `owner` + before + its name + behind.
// Throws value_error where a field is missing or unknown, type_error where one is of another type. Runs Python code on the way.
void read_fields(const py::dict& given, const ulp::FieldList& fields, const std::string& owner, const char* before = ": ",
                 const char* behind = "");

}  // namespace ulp::bindings
