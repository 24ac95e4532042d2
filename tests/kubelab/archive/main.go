// Archive writes an image archive, as `docker save` would, around one static program: the images of a test need no
// registry, no network and no other tool.
//
//	archive -out FILE -program FILE -name PATH -command WORD NAME:TAG …
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	out := flag.String("out", "", "the archive")
	program := flag.String("program", "", "the program on this machine")
	name := flag.String("name", "", "its path in the image")
	command := flag.String("command", "", "its arguments where a pod names none")
	flag.Parse()
	if err := write(*out, *program, *name, strings.Fields(*command), flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "archive: %v\n", err)
		os.Exit(1)
	}
}

type file struct {
	name string
	mode int64
	text []byte
}

func write(out, program, name string, command, tags []string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	layer, err := pack(file{strings.TrimPrefix(name, "/"), 0o755, text})
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(layer))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{name}, "Cmd": command},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	})
	if err != nil {
		return err
	}
	id := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]map[string]any{{
		"Config": id, "RepoTags": tags, "Layers": []string{digest + "/layer.tar"},
	}})
	if err != nil {
		return err
	}
	archive, err := pack(file{id, 0o644, config}, file{digest + "/layer.tar", 0o644, layer},
		file{"manifest.json", 0o644, manifest})
	if err != nil {
		return err
	}
	return os.WriteFile(out, archive, 0o644)
}

func pack(files ...file) ([]byte, error) {
	var packed bytes.Buffer
	archive := tar.NewWriter(&packed)
	for _, file := range files {
		header := &tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.text)), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(file.text); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return packed.Bytes(), err
}
