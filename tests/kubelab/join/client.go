package join

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hepto/kubelab/pki"
)

// Visitor is a node on its way into a cluster.
type Visitor struct {
	// Server is host and port of the API.
	Server string
	// Token admits it.
	Token string
	// Node is its name.
	Node string
	// Addresses are its own, with a comma between.
	Addresses string
	// Folder gets authorities, certificates and keys.
	Folder string
	// Password is the file of the node's own password, made once.
	Password string
}

// Certificates are what a node needs; each gets a NAME.crt and a NAME.key.
var Certificates = []string{"client-kubelet", "client-kube-proxy", "client-k3s-controller", "serving-kubelet"}

// Join fetches everything.
func (v *Visitor) Join() (Cluster, error) {
	var cluster Cluster
	authority := filepath.Join(v.Folder, "server-ca.crt")
	if _, err := os.Stat(authority); os.IsNotExist(err) {
		// Trust on first use, before the token is shown to anyone, as a short k3s token means.
		text, err := v.ask("GET", "/cacerts", nil, &tls.Config{InsecureSkipVerify: true}, "")
		if err != nil {
			return cluster, err
		}
		if err := pki.Write(authority, text); err != nil {
			return cluster, err
		}
	}
	trusted, err := trust(authority)
	if err != nil {
		return cluster, err
	}
	text, err := v.ask("GET", "/v1-k3s/client-ca.crt", nil, trusted, "")
	if err != nil {
		return cluster, err
	}
	if err := pki.Write(filepath.Join(v.Folder, "client-ca.crt"), text); err != nil {
		return cluster, err
	}
	password, err := v.password()
	if err != nil {
		return cluster, err
	}
	for _, name := range Certificates {
		if err := v.certificate(name, trusted, password); err != nil {
			return cluster, fmt.Errorf("%s: %w", name, err)
		}
	}
	text, err = v.ask("GET", "/v1-k3s/config", nil, trusted, "")
	if err != nil {
		return cluster, err
	}
	return cluster, json.Unmarshal(text, &cluster)
}

func (v *Visitor) certificate(name string, trusted *tls.Config, password string) error {
	key, err := pki.Key(filepath.Join(v.Folder, name+".key"))
	if err != nil {
		return err
	}
	request, err := pki.Request(key)
	if err != nil {
		return err
	}
	text, err := v.ask("POST", "/v1-k3s/"+name+".crt", request, trusted, password)
	if err != nil {
		return err
	}
	return pki.Write(filepath.Join(v.Folder, name+".crt"), text)
}

func (v *Visitor) ask(method, path string, body []byte, trusted *tls.Config, password string) ([]byte, error) {
	request, err := http.NewRequest(method, "https://"+v.Server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if !trusted.InsecureSkipVerify {
		request.SetBasicAuth(user, v.Token)
		request.Header.Set(nameHeader, v.Node)
		request.Header.Set(passwordHeader, password)
		request.Header.Set(addressHeader, v.Addresses)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: trusted}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, strings.TrimSpace(string(text)))
	}
	return text, err
}

func (v *Visitor) password() (string, error) {
	text, err := os.ReadFile(v.Password)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !os.IsNotExist(err) {
		return "", err
	}
	password := rand.Text()
	return password, pki.Write(v.Password, []byte(password+"\n"))
}

func trust(authority string) (*tls.Config, error) {
	text, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", authority)
	}
	return &tls.Config{RootCAs: pool}, nil
}
