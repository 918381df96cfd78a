package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The comment of each package has an example, and what the example takes from its package is there: names, fields, and as many
// arguments and results. Nothing else compiles a comment, and it is what a newcomer copies.
func TestExamplesAreTrue(t *testing.T) {
	for _, p := range list(t) {
		if p.Name == "main" || len(p.GoFiles)+len(p.CgoFiles) == 0 {
			continue
		}
		d, doc, err := declarationsOf(p)
		if err != nil {
			t.Error(err)
			continue
		}
		var found bool
		for _, code := range indented(doc) {
			f, err := parser.ParseFile(token.NewFileSet(), "", "package example\nfunc _() {\n"+strings.ReplaceAll(code, "...", "")+"}\n", 0)
			if err != nil {
				f, err = parser.ParseFile(token.NewFileSet(), "", "package example\n"+strings.ReplaceAll(code, "...", ""), 0)
			}
			if err != nil {
				continue // it shows files, or a command
			}
			found = found || strings.Contains(code, d.name+".")
			for _, wrong := range d.wrong(f) {
				t.Errorf("%s: the example in the package's comment: %s", p.path(), wrong)
			}
		}
		if !found {
			t.Errorf("%s: the package's comment has no example of its use", p.path())
		}
	}
}

// indented are the blocks of a comment that are shown as code.
func indented(doc string) (blocks []string) {
	var b strings.Builder
	for line := range strings.Lines(doc + "\n.\n") {
		if strings.HasPrefix(line, "\t") {
			b.WriteString(line)
		} else if b.Len() > 0 && strings.TrimSpace(line) != "" {
			blocks = append(blocks, b.String())
			b.Reset()
		}
	}
	return blocks
}

// declarations are what a package has at its top.
type declarations struct {
	name    string // of the package
	names   map[string]bool
	structs map[string]*ast.StructType
	funcs   map[string][]*ast.FuncType
	methods map[string][]*ast.FuncType // of any type
}

func declarationsOf(p pkg) (d declarations, doc string, err error) {
	d = declarations{p.Name, map[string]bool{}, map[string]*ast.StructType{}, map[string][]*ast.FuncType{}, map[string][]*ast.FuncType{}}
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			return d, "", err
		}
		doc += f.Doc.Text()
		for _, decl := range f.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv != nil {
					d.methods[decl.Name.Name] = append(d.methods[decl.Name.Name], decl.Type)
				} else {
					d.funcs[decl.Name.Name], d.names[decl.Name.Name] = append(d.funcs[decl.Name.Name], decl.Type), true
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					d.add(spec)
				}
			}
		}
	}
	return d, doc, nil
}

func (d declarations) add(spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, n := range spec.Names {
			d.names[n.Name] = true
		}
	case *ast.TypeSpec:
		d.names[spec.Name.Name] = true
		switch typ := spec.Type.(type) {
		case *ast.StructType:
			d.structs[spec.Name.Name] = typ
		case *ast.InterfaceType:
			for _, m := range typ.Methods.List {
				if f, ok := m.Type.(*ast.FuncType); ok {
					d.methods[m.Names[0].Name] = append(d.methods[m.Names[0].Name], f)
				}
			}
		}
	}
}

// wrong is what an example says of its package that is not so. Types are not looked at: of methods that several types have,
// one must fit.
func (d declarations) wrong(example *ast.File) (out []string) {
	results := map[*ast.CallExpr]int{}
	ast.Inspect(example, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if call, ok := n.Rhs[0].(*ast.CallExpr); ok && len(n.Rhs) == 1 {
				results[call] = len(n.Lhs)
			}
		case *ast.SelectorExpr:
			if d.own(n) && !d.names[n.Sel.Name] {
				out = append(out, "there is no "+d.name+"."+n.Sel.Name)
			}
		case *ast.CompositeLit:
			out = append(out, d.wrongFields(n)...)
		case *ast.CallExpr:
			fun, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				break
			}
			var known []*ast.FuncType
			if d.own(fun) {
				known = d.funcs[fun.Sel.Name]
			} else if _, ok := fun.X.(*ast.Ident); ok { // of what another call returned nobody knows the type here
				known = d.methods[fun.Sel.Name]
			}
			if known != nil && !slices.ContainsFunc(known, func(f *ast.FuncType) bool { return fits(f, n, results[n]) }) {
				out = append(out, fun.Sel.Name+" has other arguments or results")
			}
		}
		return true
	})
	return out
}

// own tells whether an expression names something of the package itself.
func (d declarations) own(e ast.Expr) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == d.name
}

func (d declarations) wrongFields(lit *ast.CompositeLit) (out []string) {
	typ := lit.Type
	if of, ok := typ.(*ast.IndexExpr); ok { // of a type with parameters
		typ = of.X
	}
	if !d.own(typ) {
		return nil
	}
	name := typ.(*ast.SelectorExpr).Sel.Name
	s := d.structs[name]
	if s == nil {
		return nil
	}
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key := kv.Key.(*ast.Ident).Name
		if !slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool { return slices.Contains(namesOf(f), key) }) {
			out = append(out, d.name+"."+name+" has no field "+key)
		}
	}
	return out
}

func namesOf(f *ast.Field) (names []string) {
	for _, n := range f.Names {
		names = append(names, n.Name)
	}
	if names == nil { // embedded
		typ := f.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		switch typ := typ.(type) {
		case *ast.Ident:
			names = []string{typ.Name}
		case *ast.SelectorExpr:
			names = []string{typ.Sel.Name}
		}
	}
	return names
}

// fits tells whether a function can be called so. results: how many are taken; 0: none is looked at.
func fits(f *ast.FuncType, call *ast.CallExpr, results int) bool {
	want, got := f.Params.NumFields(), len(call.Args)
	if n := len(f.Params.List); n > 0 {
		if _, variadic := f.Params.List[n-1].Type.(*ast.Ellipsis); variadic && got >= want-1 {
			want = got
		}
	}
	return got == want && (results == 0 || results == f.Results.NumFields())
}
