// An OCI layout becomes one with eStargz layers. Each layer is read twice and written as a stream, so that nothing of it has to lie
// on the disk meanwhile: first the files that a start needs, in their order, then the mark up to which the daemon prefetches, then
// everything else.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The level of the builders' own gzip; the highest one takes three times as long for a hundredth of the bytes.
const level = 6

// What the landmark holds; only that it is there counts.
const landmarkContent = 0xf

type layout string

func (l layout) blob(d digest.Digest) string {
	return filepath.Join(string(l), "blobs", "sha256", d.Encoded())
}

func (l layout) read(name string, into any) error {
	bytes, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(bytes, into)
}

func (l layout) write(document any, mediaType string) (ocispec.Descriptor, error) {
	bytes, err := json.Marshal(document)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(bytes)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(bytes))}, os.WriteFile(l.blob(d), bytes, 0o644)
}

func optimise(fromDirectory, toDirectory string, files io.Reader) error {
	from, to := layout(fromDirectory), layout(toDirectory)
	if err := os.MkdirAll(filepath.Join(toDirectory, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	wanted := map[string]int{}
	for lines := bufio.NewScanner(files); lines.Scan(); {
		wanted[clean(lines.Text())] = len(wanted)
	}
	var index ocispec.Index
	if err := from.read(filepath.Join(fromDirectory, "index.json"), &index); err != nil {
		return err
	}
	named := index.Manifests[0]
	for _, candidate := range index.Manifests {
		if candidate.Annotations[ocispec.AnnotationRefName] == "latest" {
			named = candidate
		}
	}
	var manifest ocispec.Manifest
	if err := from.read(from.blob(named.Digest), &manifest); err != nil {
		return err
	}
	var config ocispec.Image
	if err := from.read(from.blob(manifest.Config.Digest), &config); err != nil {
		return err
	}
	for i, layer := range manifest.Layers {
		made, diffID, err := buildLayer(from.blob(layer.Digest), to, wanted)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		manifest.Layers[i], config.RootFS.DiffIDs[i] = made, diffID
	}
	var err error
	if manifest.Config, err = to.write(config, ocispec.MediaTypeImageConfig); err != nil {
		return err
	}
	made, err := to.write(manifest, ocispec.MediaTypeImageManifest)
	if err != nil {
		return err
	}
	made.Platform, made.Annotations = named.Platform, map[string]string{ocispec.AnnotationRefName: "latest"}
	index.Manifests = []ocispec.Descriptor{made}
	bytes, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(toDirectory, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(toDirectory, "index.json"), bytes, 0o644)
}

func buildLayer(source string, to layout, wanted map[string]int) (ocispec.Descriptor, digest.Digest, error) {
	var none ocispec.Descriptor
	file, err := os.CreateTemp(string(to), "layer-")
	if err != nil {
		return none, "", err
	}
	defer file.Close()
	hash := sha256.New()
	writer := estargz.NewWriterLevel(io.MultiWriter(file, hash), level)
	reader, pipe := io.Pipe()
	go func() { pipe.CloseWithError(sorted(source, pipe, wanted)) }()
	if err := writer.AppendTar(reader); err != nil {
		return none, "", err
	}
	toc, err := writer.Close()
	if err != nil {
		return none, "", err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return none, "", err
	}
	d := digest.NewDigest(digest.SHA256, hash)
	made := ocispec.Descriptor{
		MediaType:   ocispec.MediaTypeImageLayerGzip,
		Digest:      d,
		Size:        size,
		Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: toc.String()},
	}
	return made, digest.Digest(writer.DiffID()), os.Rename(file.Name(), to.blob(d))
}

// The layer's archive with the wanted files first. They are held in memory between the passes to come in the order of the start.
func sorted(source string, out io.Writer, wanted map[string]int) error {
	archive := tar.NewWriter(out)
	type held struct {
		header  *tar.Header
		content []byte
	}
	found := map[string]held{}
	parents := map[string]bool{}
	for name := range wanted {
		for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
			parents[dir] = true
		}
	}
	first := map[string]bool{}
	err := each(source, func(header *tar.Header, content io.Reader) error {
		name := clean(header.Name)
		if header.Typeflag == tar.TypeDir && parents[name] {
			first[name] = true
			return archive.WriteHeader(header)
		}
		if _, is := wanted[name]; !is || header.Typeflag != tar.TypeReg {
			return nil
		}
		bytes, err := io.ReadAll(content)
		found[name], first[name] = held{header, bytes}, true
		return err
	})
	if err != nil {
		return err
	}
	order := make([]string, len(wanted))
	for name, at := range wanted {
		order[at] = name
	}
	for _, name := range order {
		file, is := found[name]
		if !is {
			continue
		}
		if err := archive.WriteHeader(file.header); err != nil {
			return err
		}
		if _, err := archive.Write(file.content); err != nil {
			return err
		}
	}
	mark := estargz.PrefetchLandmark
	if len(found) == 0 {
		mark = estargz.NoPrefetchLandmark
	}
	if err := archive.WriteHeader(&tar.Header{Name: mark, Typeflag: tar.TypeReg, Size: 1}); err != nil {
		return err
	}
	if _, err := archive.Write([]byte{landmarkContent}); err != nil {
		return err
	}
	err = each(source, func(header *tar.Header, content io.Reader) error {
		if first[clean(header.Name)] {
			return nil
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.Copy(archive, content)
		return err
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func each(source string, visit func(*tar.Header, io.Reader) error) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := gzip.NewReader(bufio.NewReaderSize(file, 1<<20))
	if err != nil {
		return err
	}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(header, archive); err != nil {
			return err
		}
	}
}

func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}
