// Package pki makes the cluster's certificates, in the files and under the names that k3s uses.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	validity = 365 * 24 * time.Hour
	// A home's box may boot with its clock behind.
	grace = 24 * time.Hour
)

// Authority signs certificates.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// Subject is who a certificate is for; addresses and names matter to a serving one.
type Subject struct {
	Name    string
	Groups  []string
	Serving bool
	// SANs are addresses and DNS names.
	SANs []string
}

// Open reads the authority NAME.crt and NAME.key of a folder, or makes it.
func Open(folder, name string) (*Authority, error) {
	crt, key := filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key")
	if _, err := os.Stat(crt); errors.Is(err, fs.ErrNotExist) {
		if err := found(name, crt, key); err != nil {
			return nil, err
		}
	}
	block, err := block(crt)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(block)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", crt, err)
	}
	signer, err := Key(key)
	if err != nil {
		return nil, err
	}
	return &Authority{certificate, signer}, nil
}

func found(name, crt, key string) error {
	signer, err := Key(key)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "k3s-" + name},
		NotBefore: time.Now().Add(-grace), NotAfter: time.Now().Add(10 * validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return err
	}
	return Write(crt, encode("CERTIFICATE", der))
}

// Key reads a private key, or makes it.
func Key(path string) (crypto.Signer, error) {
	der, err := block(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, Write(path, encode("EC PRIVATE KEY", der))
	}
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// Issue signs a certificate for a public key; the answer is PEM, the authority's own behind it.
func (a *Authority) Issue(subject Subject, public crypto.PublicKey) ([]byte, error) {
	usage := x509.ExtKeyUsageClientAuth
	if subject.Serving {
		usage = x509.ExtKeyUsageServerAuth
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: subject.Name, Organization: subject.Groups},
		NotBefore: time.Now().Add(-grace), NotAfter: time.Now().Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	for _, san := range subject.SANs {
		if address := net.ParseIP(san); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, err
	}
	return append(encode("CERTIFICATE", der), encode("CERTIFICATE", a.certificate.Raw)...), nil
}

// Pair writes NAME.crt and NAME.key to a folder.
func (a *Authority) Pair(folder, name string, subject Subject) error {
	key, err := Key(filepath.Join(folder, name+".key"))
	if err != nil {
		return err
	}
	certificate, err := a.Issue(subject, key.Public())
	if err != nil {
		return err
	}
	return Write(filepath.Join(folder, name+".crt"), certificate)
}

// Request makes a signing request for a key, PEM.
func Request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	return encode("CERTIFICATE REQUEST", der), nil
}

// Requested is the public key of a signing request, proved by its signature.
func Requested(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the signing request is not PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request.PublicKey, request.CheckSignature()
}

// Public is the PEM of a key's public half.
func Public(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return encode("PUBLIC KEY", der), err
}

// Write writes a file for root alone, whole or not at all.
func Write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	beside := path + ".new"
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

func block(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	return block.Bytes, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func serial() *big.Int {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		// crypto/rand never fails on Linux.
		panic(err)
	}
	return number
}
