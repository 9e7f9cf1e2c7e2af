// The store of the tests' Kubernetes: `../build` makes it.
module podwire/tests/servers/etcd

go 1.25.0

require go.etcd.io/etcd/server/v3 v3.6.16
