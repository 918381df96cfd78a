// Command writers runs in the guest of the power-cut test: it says which ConfigMaps the server has after the boot, and
// then lets 16 writers create more, saying each one that the server acknowledged, until the power is cut.
//
// Lines on standard output, the guest's serial line: "HAVE name revision", "START", "ACK name revision".
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the server's")
	boot := flag.String("boot", "0", "makes the names of this boot its own")
	verify := flag.Bool("verify-only", false, "say what is there and end")
	flag.Parse()
	if err := run(*kubeconfig, *boot, *verify); err != nil {
		fmt.Println("ERROR", err)
		os.Exit(1)
	}
}

func run(kubeconfig, boot string, verify bool) error {
	client, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	list, err := client.CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list what is there: %w", err)
	}
	for _, cm := range list.Items {
		fmt.Println("HAVE", cm.Name, cm.ResourceVersion)
	}
	fmt.Println("START")
	if verify {
		return nil
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() { write(client, fmt.Sprintf("boot-%s-%d", boot, w)) })
	}
	wg.Wait()
	return nil
}

// connect waits until the server answers.
func connect(kubeconfig string) (kubernetes.Interface, error) {
	var last error
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			last = err
			continue
		}
		config.QPS = -1
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		// The default namespace is made by the server some time after it listens.
		if _, err = client.CoreV1().Namespaces().Get(context.Background(), "default", metav1.GetOptions{}); err == nil {
			return client, nil
		}
		last = err
	}
	return nil, fmt.Errorf("the server does not answer: %w", last)
}

func write(client kubernetes.Interface, prefix string) {
	for n := 0; ; n++ {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, n)}, Data: map[string]string{"key": prefix}}
		made, err := client.CoreV1().ConfigMaps("default").Create(context.Background(), cm, metav1.CreateOptions{})
		if err != nil {
			fmt.Println("ERROR", err)
			return
		}
		fmt.Println("ACK", made.Name, made.ResourceVersion)
	}
}
