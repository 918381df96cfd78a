package cache

import (
	"fmt"
	"reflect"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

var decoder = scheme.Codecs.UniversalDeserializer()

// decode turns the store's encoding into an object. Field ownership is dropped,
// because nobody here reads it and it is often half of an object; an update
// without it keeps what the server has.
func decode(fresh any, value []byte, revision int64) (metav1.Object, error) {
	into, ok := fresh.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T is not an API object", fresh)
	}
	out, _, err := decoder.Decode(value, nil, into)
	if err != nil {
		return nil, err
	}
	object, ok := out.(metav1.Object)
	if !ok || reflect.TypeOf(out) != reflect.TypeOf(fresh) {
		return nil, fmt.Errorf("the store holds a %T where a %T was expected", out, into)
	}
	object.SetManagedFields(nil)
	object.SetResourceVersion(strconv.FormatInt(revision, 10))
	return object, nil
}

// Decode reads an object that OnKey told of. It has no resource version.
func Decode[T any](value []byte) (*T, error) {
	object, err := decode(new(T), value, 0)
	return as[T](object), err
}

func meta[T any](object *T) metav1.Object { return any(object).(metav1.Object) }
