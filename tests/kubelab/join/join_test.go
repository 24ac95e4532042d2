package join

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hepto/kubelab/pki"
)

// desk is a server with its tokens, and a node that has not joined.
func desk(t *testing.T) (*httptest.Server, *Visitor) {
	t.Helper()
	folder := t.TempDir()
	for name, text := range map[string]string{
		"token": "server-token", "agent-token": "agent-token", "cred/cluster.json": `{"podCIDRs":["10.42.0.0/16"]}`,
	} {
		if err := pki.Write(filepath.Join(folder, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	authorities := filepath.Join(folder, "tls")
	if _, err := pki.Open(authorities, "client-ca"); err != nil {
		t.Fatal(err)
	}
	authority, err := pki.Open(authorities, "server-ca")
	if err != nil {
		t.Fatal(err)
	}
	serving := pki.Subject{Name: "mars", Serving: true, SANs: []string{"127.0.0.1"}}
	if err := authority.Pair(authorities, "serving", serving); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(authorities, "serving.crt"), filepath.Join(authorities, "serving.key"))
	if err != nil {
		t.Fatal(err)
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	server := httptest.NewUnstartedServer(Open(folder).Before(next))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	home := t.TempDir()
	return server, &Visitor{
		Server: strings.TrimPrefix(server.URL, "https://"), Token: "agent-token", Node: "venus",
		Addresses: "10.44.0.2,fd00::2", Folder: filepath.Join(home, "agent"), Password: filepath.Join(home, "password"),
	}
}

func TestANodeJoinsByTheAgentsToken(t *testing.T) {
	_, node := desk(t)
	for range 2 {
		cluster, err := node.Join()
		if err != nil {
			t.Fatal(err)
		}
		if len(cluster.PodCIDRs) != 1 {
			t.Errorf("%+v", cluster)
		}
	}
	for _, name := range Certificates {
		for _, kind := range []string{".crt", ".key"} {
			info, err := os.Stat(filepath.Join(node.Folder, name+kind))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s%s: %v %v", name, kind, info, err)
			}
		}
	}
}

func TestAWrongTokenIsTurnedAway(t *testing.T) {
	_, node := desk(t)
	node.Token = "server-tokem"
	if _, err := node.Join(); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("%v", err)
	}
}

func TestANameBelongsToWhoKnowsItsPassword(t *testing.T) {
	_, node := desk(t)
	if _, err := node.Join(); err != nil {
		t.Fatal(err)
	}
	node.Password += ".other"
	if _, err := node.Join(); err == nil || !strings.Contains(err.Error(), "duplicate hostname") {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNotTheDesksIsHandedOn(t *testing.T) {
	server, _ := desk(t)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answer, err := client.Get(server.URL + "/api/v1/nodes")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusTeapot {
		t.Errorf("%v", answer.Status)
	}
}
