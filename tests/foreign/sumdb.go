// Go's golang.org/x/mod/sumdb as a verifier of our log, and a maker of logs for ours to verify.
//
// sumdb verify < claims.json    fails unless all of it holds
// sumdb make < {"sizes": [..]}  prints logs with notes and proofs
// sumdb cosigned < claims.json  fails unless all witnesses have cosigned the note
// sumdb cosign < claims.json    prints the note with a cosignature by a new key, and that key
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type Proof struct {
	Index  int64
	Data   []byte // of the leaf
	Hashes []tlog.Hash
}

type Step struct {
	Old    int64
	Root   tlog.Hash
	Hashes []tlog.Hash
}

type Log struct {
	Vkey   string
	Note   string
	Tiles  string // where they are served; "" if they are not
	Proofs []Proof
	Steps  []Step
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func checkpoint(text string) tlog.Tree {
	lines := strings.Split(text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return tlog.Tree{N: size, Hash: root}
}

// served reads tiles as c2sp.org/tlog-tiles names them.
type served string

func (at served) Height() int                            { return 8 }
func (at served) SaveTiles(tiles []tlog.Tile, _ [][]byte) {}

func (at served) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		answer, err := http.Get(string(at) + "/" + strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != 200 {
			return nil, fmt.Errorf("%s: %s %v", tile.Path(), answer.Status, err)
		}
		found = append(found, data)
	}
	return found, nil
}

func verify(log Log) {
	verifier, err := note.NewVerifier(log.Vkey)
	must(err)
	opened, err := note.Open([]byte(log.Note), note.VerifierList(verifier))
	must(err)
	tree := checkpoint(opened.Text)
	for _, each := range log.Proofs {
		must(tlog.CheckRecord(each.Hashes, tree.N, tree.Hash, each.Index, tlog.RecordHash(each.Data)))
	}
	for _, each := range log.Steps {
		must(tlog.CheckTree(each.Hashes, tree.N, tree.Hash, each.Old, each.Root))
	}
	if log.Tiles == "" {
		return
	}
	// Its own proofs, from our tiles, each of which it checks against the root.
	hashes := tlog.TileHashReader(tree, served(log.Tiles))
	root, err := tlog.TreeHash(tree.N, hashes)
	must(err)
	if root != tree.Hash {
		must(fmt.Errorf("the tiles have another root"))
	}
	for _, each := range log.Proofs {
		proof, err := tlog.ProveRecord(tree.N, each.Index, hashes)
		must(err)
		if fmt.Sprint(proof) != fmt.Sprint(tlog.RecordProof(each.Hashes)) {
			must(fmt.Errorf("another proof of %d", each.Index))
		}
	}
	for _, each := range log.Steps {
		proof, err := tlog.ProveTree(tree.N, each.Old, hashes)
		must(err)
		if fmt.Sprint(proof) != fmt.Sprint(tlog.TreeProof(each.Hashes)) {
			must(fmt.Errorf("another proof from %d", each.Old))
		}
	}
}

func produce(name string, size int64) Log {
	secret, vkey, err := note.GenerateKey(rand.Reader, name)
	must(err)
	signer, err := note.NewSigner(secret)
	must(err)
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var found []tlog.Hash
		for _, each := range indexes {
			found = append(found, stored[each])
		}
		return found, nil
	})
	var roots []tlog.Hash
	for at := int64(0); at < size; at++ {
		hashes, err := tlog.StoredHashes(at, []byte(fmt.Sprint(at)), reader)
		must(err)
		stored = append(stored, hashes...)
		root, err := tlog.TreeHash(at+1, reader)
		must(err)
		roots = append(roots, root)
	}
	made := Log{Vkey: vkey}
	for at := int64(0); at < size; at++ {
		proof, err := tlog.ProveRecord(size, at, reader)
		must(err)
		made.Proofs = append(made.Proofs, Proof{at, []byte(fmt.Sprint(at)), proof})
		step, err := tlog.ProveTree(size, at+1, reader)
		must(err)
		made.Steps = append(made.Steps, Step{at + 1, roots[at], step})
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", name, size, roots[size-1])
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	must(err)
	made.Note = string(signed)
	return made
}

// Witness is a cosignature/v1 of c2sp.org/tlog-cosignature as a note.Verifier and, with a secret, a note.Signer.
type Witness struct {
	name   string
	public ed25519.PublicKey
	secret ed25519.PrivateKey
}

func (w Witness) Name() string { return w.name }

func (w Witness) KeyHash() uint32 {
	digest := sha256.Sum256(append([]byte(w.name+"\n\x04"), w.public...))
	return binary.BigEndian.Uint32(digest[:4])
}

func dated(at uint64, text []byte) []byte {
	return append([]byte(fmt.Sprintf("cosignature/v1\ntime %d\n", at)), text...)
}

func (w Witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	return ed25519.Verify(w.public, dated(binary.BigEndian.Uint64(signature), text), signature[8:])
}

func (w Witness) Sign(text []byte) ([]byte, error) {
	at := uint64(time.Now().Unix())
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(w.secret, dated(at, text))...), nil
}

func (w Witness) String() string {
	key := base64.StdEncoding.EncodeToString(append([]byte{4}, w.public...))
	return fmt.Sprintf("%s+%08x+%s", w.name, w.KeyHash(), key)
}

func parseWitness(vkey string) Witness {
	parts := strings.SplitN(vkey, "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	must(err)
	found := Witness{name: parts[0], public: key[1:]}
	if found.String() != vkey {
		must(fmt.Errorf("%s is no witness's key", vkey))
	}
	return found
}

type Cosigned struct {
	Vkey      string // of the log
	Witnesses []string
	Note      string
}

func open(claims Cosigned) *note.Note {
	verifier, err := note.NewVerifier(claims.Vkey)
	must(err)
	verifiers := []note.Verifier{verifier}
	for _, each := range claims.Witnesses {
		verifiers = append(verifiers, parseWitness(each))
	}
	opened, err := note.Open([]byte(claims.Note), note.VerifierList(verifiers...))
	must(err)
	if len(opened.Sigs) != 1+len(claims.Witnesses) {
		must(fmt.Errorf("%d signatures verify", len(opened.Sigs)))
	}
	return opened
}

func cosign(claims Cosigned) Cosigned {
	opened := open(claims)
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	witness := Witness{"witness.example/go", public, secret}
	signed, err := note.Sign(opened, witness)
	must(err)
	claims.Note, claims.Witnesses = string(signed), []string{witness.String()}
	return claims
}

func main() {
	input := json.NewDecoder(os.Stdin)
	if strings.HasPrefix(os.Args[1], "cosign") {
		var claims Cosigned
		must(input.Decode(&claims))
		if os.Args[1] == "cosigned" {
			open(claims)
			return
		}
		must(json.NewEncoder(os.Stdout).Encode(cosign(claims)))
		return
	}
	if os.Args[1] == "verify" {
		var log Log
		must(input.Decode(&log))
		verify(log)
		return
	}
	var wanted struct {
		Name  string
		Sizes []int64
	}
	must(input.Decode(&wanted))
	var made []Log
	for _, size := range wanted.Sizes {
		made = append(made, produce(wanted.Name, size))
	}
	must(json.NewEncoder(os.Stdout).Encode(made))
}
