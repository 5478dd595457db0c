// An echo server on Go's net: a goroutine for each connection with its buffer, as its programs have it, and as many
// threads at once as it may use processors. Its arguments are those of ../server.h.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
)

const bufferSize = 64 * 1024

func serve(client net.Conn, line bool) {
	defer client.Close()
	buffer := make([]byte, bufferSize)
	for {
		got, err := client.Read(buffer)
		if err != nil {
			return
		}
		if _, err = client.Write(buffer[:got]); err != nil {
			return
		}
		if line && bytes.IndexByte(buffer[:got], '\n') >= 0 {
			return
		}
	}
}

func main() {
	line, network, address, port := false, "tcp4", "127.0.0.1:0", 0
	for i, argument := range os.Args {
		if argument == "line" {
			line = true
		}
		if argument == "unix" {
			network, address = "unix", os.Args[i+1]
		}
	}
	withoutKeepAlive := net.ListenConfig{KeepAlive: -1}
	listener, err := withoutKeepAlive.Listen(context.Background(), network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
		port = tcp.Port
	}
	fmt.Println(port, os.Getpid())
	for {
		client, err := listener.Accept()
		if err == nil {
			go serve(client, line)
		}
	}
}
