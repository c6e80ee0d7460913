// A transform in Go: shards of photographs become shards of thumbnails.
//
// It is everything that shardgate asks of a program in another language: an HTTP server with a health path, that takes a
// tar as the body of a PUT and answers with a tar, member by member, while the request is still coming in.
//
//	go build -o thumbnails . && CGO_ENABLED=0 buildah bud -t registry/thumbnails .
//	client.etl_from_image("registry/thumbnails", command=["/path/of/thumbnails"])   # a cluster runs the image, a laptop the command
//	client.get("gcp://photos", "train-000000.tar", transform_id="thumbnails", args={"size": 128})
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"log"
	"net/http"
	"os"
	"path"
)

func main() {
	http.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {})
	http.HandleFunc("PUT /", thumbnails)
	port := os.Getenv("PORT")
	if port == "" {
		port = "8000"
	}
	log.Fatal(http.ListenAndServe(":"+port, nil))
}

func thumbnails(w http.ResponseWriter, r *http.Request) {
	// Go reads a request to its end before it answers, unless it is told that the other side does both at once.
	http.NewResponseController(w).EnableFullDuplex()
	options := struct{ Size int }{Size: 64}
	if args := r.URL.Query().Get("args"); args != "" {
		if err := json.Unmarshal([]byte(args), &options); err != nil || options.Size < 1 {
			http.Error(w, fmt.Sprintf("args %s: want {\"size\": PIXELS}", args), http.StatusBadRequest)
			return
		}
	}
	sent := &counter{to: w}
	if err := convert(sent, r.Body, options.Size); err != nil {
		if sent.bytes == 0 { // there is still time to say what is wrong
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		log.Printf("%s: %v", r.Header.Get("X-Shardgate-Object"), err)
		panic(http.ErrAbortHandler) // a body that ends early must not look whole
	}
}

// convert streams a tar: one member is in memory at a time.
func convert(to io.Writer, from io.Reader, size int) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	for {
		header, err := in.Next()
		if err == io.EOF {
			return out.Close()
		} else if err != nil {
			return err
		}
		body, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		if ext := path.Ext(header.Name); ext == ".jpg" || ext == ".jpeg" {
			if body, err = thumbnail(body, size); err != nil {
				return fmt.Errorf("%s: %w", header.Name, err)
			}
		}
		header = &tar.Header{Name: header.Name, Size: int64(len(body)), Mode: 0o644}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := out.Write(body); err != nil {
			return err
		}
	}
}

// thumbnail scales so that the longer side has `size` pixels, each the mean of those that it covers.
func thumbnail(photo []byte, size int) ([]byte, error) {
	from, err := jpeg.Decode(bytes.NewReader(photo))
	if err != nil {
		return nil, err
	}
	b := from.Bounds()
	longer := max(b.Dx(), b.Dy())
	width, height := max(1, b.Dx()*size/longer), max(1, b.Dy()*size/longer)
	to := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			area := image.Rect(x*b.Dx()/width, y*b.Dy()/height, (x+1)*b.Dx()/width, (y+1)*b.Dy()/height)
			to.Set(x, y, mean(from, area.Add(b.Min)))
		}
	}
	var out bytes.Buffer
	err = jpeg.Encode(&out, to, nil)
	return out.Bytes(), err
}

func mean(of image.Image, area image.Rectangle) color.Color {
	area.Max.X, area.Max.Y = max(area.Max.X, area.Min.X+1), max(area.Max.Y, area.Min.Y+1)
	var sum [3]uint64
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			r, g, b, _ := of.At(x, y).RGBA()
			sum[0], sum[1], sum[2] = sum[0]+uint64(r), sum[1]+uint64(g), sum[2]+uint64(b)
		}
	}
	n := uint64(area.Dx()) * uint64(area.Dy()) * 257 // from 16 bits to 8
	return color.RGBA{uint8(sum[0] / n), uint8(sum[1] / n), uint8(sum[2] / n), 255}
}

// counter knows whether anything was sent yet.
type counter struct {
	to    io.Writer
	bytes int
}

func (c *counter) Write(data []byte) (int, error) {
	n, err := c.to.Write(data)
	c.bytes += n
	return n, err
}
