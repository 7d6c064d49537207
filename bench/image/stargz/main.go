// The stargz peer of the image benchmark, from the published modules: the snapshotter's daemon, and what makes an image's layers
// eStargz with the files that a start needs first, as its own optimiser does.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 5 && os.Args[1] == "daemon":
		err = serve(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 4 && os.Args[1] == "optimise":
		err = optimise(os.Args[2], os.Args[3], os.Stdin)
	default:
		err = fmt.Errorf("usage: stargz-peer daemon SOCKET STATE REGISTRY | optimise FROM-LAYOUT TO-LAYOUT < FILES")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stargz-peer:", err)
		os.Exit(1)
	}
}
