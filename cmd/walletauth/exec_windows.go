package main

import "os"

var passedOn = []os.Signal{os.Interrupt}

// reachesChildAnyway: a console sends Ctrl-C to all processes that share it.
func reachesChildAnyway(os.Signal) bool { return true }

func exitCode(state *os.ProcessState) int { return state.ExitCode() }
