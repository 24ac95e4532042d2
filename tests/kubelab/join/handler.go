// Package join is how a node comes into the cluster: it shows the token and its own password on the API's port, and
// gets certificates for keys that never leave it.
package join

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"hepto/kubelab/pki"
)

const (
	// user is whom a node shows the token as.
	user = "node"
	// most is the longest signing request.
	most = 16 << 10

	nameHeader     = "k3s-Node-Name"
	passwordHeader = "k3s-Node-Password"
	addressHeader  = "k3s-Node-IP"
)

// Cluster is what an agent has to know of the cluster.
type Cluster struct {
	PodCIDRs     []string `json:"podCIDRs"`
	ServiceCIDRs []string `json:"serviceCIDRs"`
	DNS          []string `json:"dns"`
	IPv6Masq     bool     `json:"ipv6Masq"`
}

// Desk answers nodes that want to join.
type Desk struct {
	folder string
	// mutex guards the file of passwords.
	mutex sync.Mutex
}

// Open is the desk of a server's folder, which holds tls, cred, token and agent-token.
func Open(folder string) *Desk { return &Desk{folder: folder} }

// Before answers what belongs to the desk and hands everything else on.
func (d *Desk) Before(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pong") })
	mux.HandleFunc("GET /cacerts", d.file("tls/server-ca.crt", false))
	mux.HandleFunc("GET /v1-k3s/client-ca.crt", d.file("tls/client-ca.crt", true))
	mux.HandleFunc("GET /v1-k3s/config", d.file("cred/cluster.json", true))
	mux.HandleFunc("POST /v1-k3s/{certificate}", d.certificate)
	mux.Handle("/", next)
	return mux
}

func (d *Desk) path(name string) string { return filepath.Join(d.folder, name) }

func (d *Desk) file(name string, closed bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if closed && !d.admits(r) {
			refuse(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		http.ServeFile(w, r, d.path(name))
	}
}

// admits is whether the agents' token, or the server's, was shown.
func (d *Desk) admits(r *http.Request) bool {
	name, shown, ok := r.BasicAuth()
	if !ok || name != user {
		return false
	}
	for _, file := range []string{"agent-token", "token"} {
		token, err := os.ReadFile(d.path(file))
		if err == nil && len(token) > 0 && equal(shown, string(token)) {
			return true
		}
	}
	log.Printf("a node at %s showed a wrong token", r.RemoteAddr)
	return false
}

func (d *Desk) certificate(w http.ResponseWriter, r *http.Request) {
	if !d.admits(r) {
		refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	node := r.Header.Get(nameHeader)
	if status, err := d.know(node, r.Header.Get(passwordHeader)); err != nil {
		refuse(w, status, err.Error())
		return
	}
	authority, subject, err := d.subject(r.PathValue("certificate"), node, r.Header.Get(addressHeader))
	if err != nil {
		refuse(w, http.StatusNotFound, err.Error())
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	key, err := pki.Requested(text)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	issued, err := authority.Issue(subject, key)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	// The node may have gone.
	_, _ = w.Write(issued)
}

// subject is who the certificate of that name is for.
func (d *Desk) subject(name, node, addresses string) (*pki.Authority, pki.Subject, error) {
	authority, subject := "client-ca", pki.Subject{}
	switch name {
	case "client-kubelet.crt":
		subject = pki.Subject{Name: "system:node:" + node, Groups: []string{"system:nodes"}}
	case "client-kube-proxy.crt":
		subject = pki.Subject{Name: "system:kube-proxy"}
	case "client-k3s-controller.crt":
		subject = pki.Subject{Name: "system:k3s-controller"}
	case "serving-kubelet.crt":
		authority = "server-ca"
		subject = pki.Subject{Name: node, Serving: true, SANs: []string{node, "localhost", "127.0.0.1", "::1"}}
		for _, address := range strings.Split(addresses, ",") {
			if net.ParseIP(address) == nil {
				return nil, subject, fmt.Errorf("%s: %q is no address", addressHeader, address)
			}
			subject.SANs = append(subject.SANs, address)
		}
	default:
		return nil, subject, fmt.Errorf("no certificate is called %s", name)
	}
	signer, err := pki.Open(d.path("tls"), authority)
	return signer, subject, err
}

// know admits a node by the password of its first visit.
func (d *Desk) know(node, password string) (int, error) {
	if node == "" || password == "" {
		return http.StatusBadRequest, fmt.Errorf("%s or %s is missing", nameHeader, passwordHeader)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(password)))
	path := d.path("cred/node-passwords.json")
	d.mutex.Lock()
	defer d.mutex.Unlock()
	known := map[string]string{}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &known)
	} else if os.IsNotExist(err) {
		err = nil
	}
	if err != nil {
		return http.StatusInternalServerError, fmt.Errorf("%s: %w", path, err)
	}
	before, met := known[node]
	if met && !equal(before, sum) {
		log.Printf("%s came with another node password", node)
		return http.StatusForbidden, fmt.Errorf("Node password rejected, duplicate hostname")
	}
	if met {
		return 0, nil
	}
	known[node] = sum
	if text, err = json.Marshal(known); err == nil {
		err = pki.Write(path, text)
	}
	return http.StatusInternalServerError, err
}

func equal(one, other string) bool {
	return subtle.ConstantTimeCompare([]byte(one), []byte(other)) == 1
}

func refuse(w http.ResponseWriter, status int, why string) { http.Error(w, why, status) }
