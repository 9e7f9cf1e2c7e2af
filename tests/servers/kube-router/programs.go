//go:build tools

// Package programs keeps the command that ../build makes in this module's go.mod.
package programs

import _ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
