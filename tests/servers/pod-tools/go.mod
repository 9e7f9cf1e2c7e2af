// What the pods of the tests run: `../build` makes it.
module podwire/tests/servers/pod-tools

go 1.26.0
